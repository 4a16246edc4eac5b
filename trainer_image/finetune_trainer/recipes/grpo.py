"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300), by TRL's GRPOTrainer."""

from collections.abc import Callable

from trl import GRPOConfig, GRPOTrainer

from finetune_api.v1alpha1 import method
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign
from finetune_trainer.online_arguments import grpo_arguments
from finetune_trainer.recipes.group import Group, GroupTrainer
from finetune_trainer.recipes.group_reference import AskedInTheLoss
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.sanity import KnownAnswer

# TRL's sums are in float32, and logs are rounded.
_ZERO = 1e-3


class Trainer(AskedInTheLoss, GroupTrainer, GRPOTrainer):
    """TRL's trainer with our prompts and rewards."""

    def _generate_single_turn(self, *arguments: Foreign, **named: Foreign) -> Foreign:
        """Answers, and no log-probabilities of another program that wrote them."""
        return super()._generate_single_turn(*arguments, **named), None


class GRPO(Group):
    """The method GRPO."""

    name = "grpo"

    def block(self, spec: FineTuneJobSpec) -> method.GRPO:
        """`method.grpo`."""
        if spec.method.grpo is None:
            raise TrainerError(Reason.INVALID_SPEC, "GRPO needs `method.grpo`")
        return spec.method.grpo

    def trainer(self, ready: Ready, weights: list[float]) -> tuple[Callable[..., Foreign], Foreign]:
        """The trainer's class and its configuration."""
        folder = ready.context.scratch / "trainer"
        arguments = grpo_arguments(self.block(ready.spec), ready.settings, weights, folder)
        return Trainer, GRPOConfig(**arguments)

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer | None:
        """Zero where answers weigh alike: at ratio 1, the advantages of a group sum to it."""
        if self.block(ready.spec).loss != "GRPO":
            return None
        return KnownAnswer(0.0, _ZERO, "the advantages of each group sum to zero")
