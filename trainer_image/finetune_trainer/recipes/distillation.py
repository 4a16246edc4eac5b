"""On-policy distillation: the student answers, and learns the teacher's distribution at every token.

Agarwal et al. 2023, arXiv 2306.13649; by TRL's DistillationTrainer. Teacher and student must speak in
the same tokens, because whole distributions are compared.
"""

from collections.abc import Mapping
from typing import Any

from trl import DistillationConfig, DistillationTrainer

from finetune_api.v1alpha1 import method
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.method import Generation
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import heads
from finetune_trainer.callback import WatchCallback
from finetune_trainer.early_stopping import Criterion
from finetune_trainer.errors import TrainerError
from finetune_trainer.fast import told
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.online_arguments import distillation_arguments
from finetune_trainer.opening import load_source
from finetune_trainer.recipes.online import Online
from finetune_trainer.recipes.prompts import OurPrompts, unshifted_positions
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.reference import answer_logits
from finetune_trainer.rewards.reward_model import same_tokens
from finetune_trainer.watch import Measures, Watch

PATH = "method.distillation.teacher"
# Name in TRL's log -> ours.
FIGURES = {
    "entropy": "entropy",
    "completions/mean_length": "responseLength",
    "completions/clipped_ratio": "truncatedShare",
}


class Trainer(OurPrompts, DistillationTrainer):
    """TRL's trainer with our prompts."""

    def train(self, *arguments: Foreign, **named: Foreign) -> Foreign:
        """All steps; the teacher reads at the same positions as the student."""
        with unshifted_positions(self.teacher_model):
            return super().train(*arguments, **named)


class Distillation(Online):
    """The method Distillation."""

    criterion = Criterion("teacherKl")

    def generation(self, spec: FineTuneJobSpec) -> Generation:
        """How the student answers."""
        return _block(spec).generation

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """TRL's trainer with our prompts and our watch."""
        teacher = load_teacher(ready, net)
        how = self.sampling(ready, net)
        net.generation_config.eos_token_id = list(how.stop_ids)
        folder = ready.context.scratch / "trainer"
        arguments = distillation_arguments(_block(ready.spec), ready.settings, folder)
        return Trainer(
            rows=ready.data.train,
            how=how,
            model=net,
            teacher_model=teacher,
            args=DistillationConfig(**arguments),
            processing_class=ready.tokenizer,
            callbacks=[WatchCallback(watch)],
        )

    def fast_paths(self, ready: Ready, trainer: Foreign) -> list[Resolved]:
        """Neither: distributions are compared, not tokens."""
        loss = "whole distributions of teacher and student are compared, which needs all logits"
        return told.library(loss, "TRL reads both models on padded rows")

    def measure(self, ready: Ready, trainer: Foreign) -> Measures:
        """How far greedy answers to the held-out prompts are from what the teacher would say."""
        held_out = self.held_out(ready, trainer.model)
        answers = held_out.answers(trainer.model)

        def teacher(rollout: Foreign, precision: Foreign) -> Foreign:
            return answer_logits(trainer.teacher_model, rollout, precision)

        kl = held_out.divergence(trainer.model, answers, teacher)
        return {"teacherKl": kl, **held_out.lengths(answers)}

    def figures(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """The figures of a step."""
        return {ours: float(logs[name]) for name, ours in FIGURES.items() if name in logs}


def load_teacher(ready: Ready, net: Model) -> Model:
    """The teacher, frozen, if it speaks in the student's tokens.

    Raises:
        TrainerError: UnsupportedModel if not.
    """
    source, settings = ready.context.models[PATH], ready.settings
    teacher, tokenizer = load_source(source, heads.CAUSAL, settings.weights, settings.device)
    theirs, ours = (each.config.get_text_config().vocab_size for each in (teacher, net))
    if not same_tokens(tokenizer, ready.tokenizer) or theirs != ours:
        message = (
            f"{source.uri}: the teacher's tokens are not the student's ({theirs} and {ours} of them); "
            "their distributions cannot be compared"
        )
        hint = "Take a teacher of the same family, with the same tokenizer and vocabulary size."
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message, hint)
    return teacher


def _block(spec: FineTuneJobSpec) -> method.Distillation:
    if spec.method.distillation is None:
        raise TrainerError(Reason.INVALID_SPEC, "Distillation needs `method.distillation.teacher`")
    return spec.method.distillation
