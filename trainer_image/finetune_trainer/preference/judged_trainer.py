"""The trainer of KTO: single answers that were judged good or bad, against a reference.

Used by `recipes.kto`. Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306), with the
log-ratio r = ln π(y|x) - ln π_ref(y|x) of an answer and σ the logistic function:

    z0 = max(0, mean of r over answers that belong to other prompts)
    λ_D (1 - σ(β (r - z0)))   for a good answer
    λ_U (1 - σ(β (z0 - r)))   for a bad one

The loss is the mean over the rows of a step, and no gradient goes through z0. TRL takes z0 from the rows
of one forward pass; here it is from all rows of the step, so that neither depends on how it was split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_api.v1alpha1.method import KTO
from finetune_trainer import processes
from finetune_trainer.batches import Batch
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.preference.answer_trainer import AnswerTrainer
from finetune_trainer.preference.judged import OWN, STRANGE
from finetune_trainer.preference.pairs import chunks, forward
from finetune_trainer.preference.reference import Reference
from finetune_trainer.preference.remembered import Columns, RemembersReference
from finetune_trainer.preference.step import Size
from finetune_trainer.spreading import Void
from finetune_trainer.watch import Measures


@dataclass(frozen=True)
class Ratios:
    """Log-ratios of rows; all tensors of shape (rows,).

    Attributes:
        own: Of their own answers.
        strange: Of answers to other prompts.
        desirable: Whether the answer was judged good.
    """

    own: torch.Tensor
    strange: torch.Tensor
    desirable: torch.Tensor


class JudgedAnswers(RemembersReference, AnswerTrainer):
    """Trains on judged answers against a reference.

    Args:
        block: The settings of the method.
        make_reference: Gives the reference, once the model has the fused head.
        precompute: Whether to ask the reference about all rows once, before training.
        arguments: Those of `AnswerTrainer`.

    Attributes:
        fitted_reference: The fast paths of the reference, if that is another model.
        desirable: Rows of the first step that were judged good, on this process.
        undesirable: Those that were judged bad.
    """

    reference_columns = (OWN, STRANGE)

    def __init__(
        self,
        *,
        block: KTO,
        make_reference: Callable[[Model], Reference],
        precompute: bool,
        **arguments: Foreign,
    ) -> None:
        super().__init__(**arguments)
        self._block, self._divergence = block, torch.zeros(())
        self.desirable, self.undesirable = 0, 0
        self.reference = make_reference(self.model)
        self.fitted_reference = self.reference.fitted
        self._precompute = precompute
        if self.eval_dataset is not None:
            self.eval_dataset = self.with_reference(self.eval_dataset, self.reference)
        if not precompute:
            first = next(chunks(self.train_dataset, self._settings.micro_batch_size))
            self.reference.require_switch(self.batch(first))
            self.against_one_pass = self.reference.against_one_pass(self.fitted)

    def size(self, batch: Batch) -> Size:
        """Judged answers."""
        return Size(len(batch["label"]))

    def get_batch_samples(self, *arguments: Foreign) -> tuple[list[Batch], Foreign]:
        """All passes of the next step, and z0 of them."""
        batches, items = super().get_batch_samples(*arguments)
        if batches:
            self._divergence = self._of_step(batches)
        return batches, items

    def compute_loss(self, model: Model, inputs: Batch, *_: Foreign, **__: Foreign) -> torch.Tensor:
        """The share of one forward pass in the loss of its step."""
        good = inputs["label"]
        if self.state.global_step == 0 and not isinstance(inputs, Void):
            self.desirable += int(good.sum())
            self.undesirable += int((~good).sum())
        ratios = self._ratios(model, inputs, OWN)
        self.count(inputs)
        self._note(inputs, ratios, good)
        return self.losses(ratios, good, self._divergence).mean() * self.share(inputs).rows

    def losses(self, ratios: torch.Tensor, good: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        """The losses of rows; all but `z0` of shape (rows,)."""
        block = self._block
        weights = torch.where(good, block.desirable_weight, block.undesirable_weight)
        advantage = torch.where(good, ratios - z0, z0 - ratios)
        losses: torch.Tensor = weights * (1 - torch.sigmoid(block.beta * advantage))
        return losses

    @torch.no_grad()
    def ratios(self, batch: Batch) -> Ratios:
        """Log-ratios of held-out rows, which carry the reference's columns."""
        own = self._sums(self.model, batch) - batch[OWN]
        return Ratios(own, self._strange(batch), batch["label"])

    def measures(self, found: Sequence[Ratios]) -> Measures:
        """Figures of rows, whatever the batches; rewards only of verdicts that there are."""
        own, good = (torch.cat([getattr(each, n) for each in found]) for n in ("own", "desirable"))
        z0 = divergence([each.strange for each in found])
        rewards = self._block.beta * own
        figures = {"loss": float(self.losses(own, good, z0).mean()), "kl": float(z0)}
        if good.any():
            figures["desirableReward"] = float(rewards[good].mean())
        if not good.all():
            figures["undesirableReward"] = float(rewards[~good].mean())
        if good.any() and not good.all():
            margin = figures["desirableReward"] - figures["undesirableReward"]
            figures["rewardMargin"] = margin
        return figures

    def _of_step(self, batches: Sequence[Batch]) -> torch.Tensor:
        """z0 of a step, of which this process has some passes."""
        # Void ones too: all processes must go through the model alike.
        found = [self._strange(self._prepare_inputs(batch)) for batch in batches]
        pairs = zip(found, batches, strict=True)
        rows = [ratios for ratios, batch in pairs if not isinstance(batch, Void)]
        total, count = processes.total(
            sum(float(each.double().sum()) for each in rows), sum(map(len, rows))
        )
        return found[0].new_tensor(total / count).clamp(min=0)

    def _note(self, batch: Batch, ratios: torch.Tensor, good: torch.Tensor) -> None:
        rewards, z0 = self._block.beta * ratios, self._divergence.expand(len(ratios))
        noted = {"desirableReward": rewards[good], "undesirableReward": rewards[~good], "kl": z0}
        self.rows.note(batch, **noted)

    @torch.no_grad()
    def _strange(self, batch: Batch) -> torch.Tensor:
        return self._ratios(self.model, batch, STRANGE)

    def _ratios(self, model: Model, batch: Batch, column: str) -> torch.Tensor:
        """Log-ratios of the answers whose column this is."""
        rows = batch if column == OWN else strange(batch)
        if column in batch or self.reference is None:
            return self._sums(model, rows) - batch[column]
        if self.against_one_pass is None:
            outputs, sums = self.reference.together(model, rows)
            ratios: torch.Tensor = outputs.log_probs.float().sum(1) - sums
            return ratios
        return self._sums(model, rows) - self.reference.in_training(rows)

    def _sums(self, model: Model, batch: Batch) -> torch.Tensor:
        sums: torch.Tensor = forward(model, batch, self._settings).log_probs.float().sum(1)
        return sums

    def ask(self, reference: Reference, rows: list[dict[str, Any]]) -> Columns:
        """Log-probabilities of each row's own answer and of the strange one."""
        batch = self.batch(rows)
        return {
            OWN: reference.before_training(batch),
            STRANGE: reference.before_training(strange(batch)),
        }


def strange(batch: Batch) -> Batch:
    """The prompts of a batch with answers to others."""
    names = ("input_ids", "attention_mask", "completion_mask")
    return {name: batch[f"KL_{name}"] for name in names}


def divergence(ratios: Sequence[torch.Tensor]) -> torch.Tensor:
    """z0 of the log-ratios of strange answers."""
    return torch.cat(list(ratios)).mean().clamp(min=0)
