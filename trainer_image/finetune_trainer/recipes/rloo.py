"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740), by TRL's RLOOTrainer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from peft import PeftModel
from trl import RLOOConfig, RLOOTrainer

from finetune_api.v1alpha1 import method
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.online_arguments import rloo_arguments
from finetune_trainer.recipes.group import Group, GroupTrainer
from finetune_trainer.recipes.group_reference import AskedBesideRewards
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.sanity import KnownAnswer

# Of the largest reward: TRL's sums are in float32, and logs are rounded.
_ZERO = 1e-3


class Trainer(AskedBesideRewards, GroupTrainer, RLOOTrainer):
    """TRL's trainer with our prompts and rewards."""

    def __init__(self, *, model: Model, **arguments: Foreign) -> None:
        with _sole_adapter(model):
            super().__init__(model=model, **arguments)


class RLOO(Group):
    """The method RLOO."""

    name = "rloo"

    def block(self, spec: FineTuneJobSpec) -> method.RLOO:
        """`method.rloo`."""
        if spec.method.rloo is None:
            raise TrainerError(Reason.INVALID_SPEC, "RLOO needs `method.rloo`")
        return spec.method.rloo

    def trainer(self, ready: Ready, weights: list[float]) -> tuple[Callable[..., Foreign], Foreign]:
        """The trainer's class and its configuration."""
        folder = ready.context.scratch / "trainer"
        arguments = rloo_arguments(self.block(ready.spec), ready.settings, weights, folder)
        return Trainer, RLOOConfig(**arguments)

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer:
        """Zero: at ratio 1, the advantages of a group, each against the others' mean, sum to it."""
        return KnownAnswer(0.0, _ZERO, "the advantages of each group sum to zero")


@contextmanager
def _sole_adapter(model: Model) -> Iterator[None]:
    """Let TRL add no second adapter.

    It copies the first one as a reference, even where there is no penalty. The copy costs memory, would
    be published too, and not every kind of adapter can have one. The reference is `reference.Reference`.
    """
    if not isinstance(model, PeftModel):
        yield
        return
    parameter = model.get_parameter
    model.add_adapter = lambda *_, **__: None
    # What is then copied into the second one goes back to where it came from.
    model.get_parameter = lambda name: parameter(name.replace(".ref.", ".default."))
    try:
        yield
    finally:
        del model.add_adapter, model.get_parameter
