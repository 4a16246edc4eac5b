"""TRL's trainer for DPO and its kin, on finished rows and with a reference of ours.

Used by `recipes.dpo`. The losses between pairs are TRL's. Ours are: the reference, the SFT term of a
mixture, means over the whole step, and figures of each pair alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from trl import DPOTrainer

from finetune_trainer.batches import Batch
from finetune_trainer.fast import answer_head
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.preference.pairs import (
    ROUNDING,
    PairFigures,
    chunks,
    forward,
    ordered,
)
from finetune_trainer.preference.reference import NoReferenceModel, Reference
from finetune_trainer.preference.remembered import Columns, RemembersReference
from finetune_trainer.preference.step import MeansOverRows, Recorder, RowFigures, Size, WholeStep
from finetune_trainer.resolve import Settings
from finetune_trainer.resume.trainer import Resumable

_REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class ReferencedPairs(RemembersReference, Resumable, WholeStep, MeansOverRows, DPOTrainer):
    """Trains on pairs against a reference.

    Args:
        settings: Of the run.
        make_reference: Gives the reference, once the model has the fused head.
        precompute: Whether to ask the reference about all rows once, before training.
        likelihood: Weight of the SFT term.
        arguments: Those of TRL's trainer.

    Attributes:
        fitted: The fast paths of the model.
        fitted_reference: Those of the reference, if that is another model.
        first_likelihood: The SFT term of the first step by the reference, in nats, and its tokens.
    """

    reference_columns = _REFERENCE_COLUMNS
    eval_dataset: Foreign

    def __init__(
        self,
        *,
        settings: Settings,
        make_reference: Callable[[Model], Reference],
        precompute: bool,
        likelihood: float,
        **arguments: Foreign,
    ) -> None:
        self._settings, self._likelihood = settings, likelihood
        self.first_likelihood = [0.0, 0]
        self.rows = RowFigures()
        super().__init__(**arguments, ref_model=NoReferenceModel(arguments["model"].config))
        self.fitted = answer_head.install(self.model, settings.max_length)
        # Log-probabilities of the reference come with each batch, whenever they were computed.
        self.ref_model, self.precompute_ref_logps = None, True
        self.reference = make_reference(self.model)
        self.fitted_reference = self.reference.fitted
        self._precompute = precompute
        if self.eval_dataset is not None:
            self.eval_dataset = self.with_reference(self.eval_dataset, self.reference)
        if not precompute:
            first = next(chunks(self.train_dataset, settings.micro_batch_size))
            self.reference.require_switch(self.batch(first))
            self.against_one_pass = self.reference.against_one_pass(self.fitted)

    def _prepare_dataset(self, dataset: Dataset, *_: Foreign) -> Dataset:
        return dataset

    def batch(self, rows: list[dict[str, Any]]) -> Batch:
        """Rows as tensors on the device."""
        batch: Batch = self.data_collator(rows)
        return {name: tensor.to(self._settings.device) for name, tensor in batch.items()}

    def ask(self, reference: Reference, rows: list[dict[str, Any]]) -> Columns:
        """Log-probabilities of both answers of each row."""
        return _columns(reference.before_training(self.batch(rows)))

    def size(self, batch: Batch) -> Size:
        """Pairs, and tokens of the better answers."""
        chosen = batch["completion_mask"][:, 1:].chunk(2)[0]
        return Size(len(chosen), int(chosen.sum()))

    def compute_loss(self, model: Model, inputs: Batch, *_: Foreign, **__: Foreign) -> torch.Tensor:
        """The share of one forward pass in the loss of its step."""
        inputs, asked = self._with_columns(model, inputs)
        recorder, share = Recorder(asked), self.share(inputs)
        loss = super().compute_loss(recorder, inputs) * share.rows
        self._note(inputs, recorder.outputs)
        if self._likelihood:
            if self.state.global_step == 0:
                # A void batch is nobody's first.
                counted = float(share.rows > 0)
                self.first_likelihood[0] -= counted * float(inputs["ref_chosen_logps"].sum())
                self.first_likelihood[1] += counted * self.size(inputs).tokens
            loss = loss + self._likelihood * share.tokens * self._surprise(inputs, recorder.outputs)
        return loss

    def _with_columns(self, model: Model, inputs: Batch) -> tuple[Batch, Foreign]:
        """The batch with what the reference says of it, and what the loss is to ask about the policy."""
        if self.reference is None:
            return inputs, model
        # A batch of the same kind: a void one stays one.
        kind = type(inputs)
        if self.against_one_pass is not None:
            return kind({**inputs, **_columns(self.reference.in_training(inputs))}), model
        outputs, sums = self.reference.together(model, inputs)
        return kind({**inputs, **_columns(sums)}), lambda **_: outputs

    @torch.no_grad()
    def pair_figures(self, batch: Batch) -> PairFigures:
        """Loss and rewards of each pair alone; `batch` carries the reference's columns."""
        outputs = forward(self.model, batch, self._settings)
        pairs = [self._alone(batch, outputs, pair) for pair in range(self.size(batch).rows)]
        loss, chosen, rejected = torch.tensor(pairs).T
        return PairFigures(loss, chosen, rejected, self.beta * ROUNDING)

    def _alone(self, batch: Batch, outputs: Foreign, pair: int) -> tuple[float, float, float]:
        count = self.size(batch).rows
        both = torch.tensor([pair, pair + count], device=outputs.log_probs.device)
        rows = {
            name: tensor[both] if len(tensor) == 2 * count else tensor[pair : pair + 1]
            for name, tensor in batch.items()
        }
        of_pair = type(outputs)(
            **{name: value[both] for name, value in outputs.items() if value.dim() == 2}
        )
        loss = float(super().compute_loss(lambda **_: of_pair, rows))
        if self._likelihood:
            loss += self._likelihood * float(self._surprise(rows, of_pair))
        noted = self._metrics["eval"]
        chosen, rejected = noted["rewards/chosen"][-1], noted["rewards/rejected"][-1]
        noted.clear()
        return loss, chosen, rejected

    def _surprise(self, batch: Batch, outputs: Foreign) -> torch.Tensor:
        chosen: torch.Tensor = outputs.log_probs.chunk(2)[0]
        return -chosen.sum() / self.size(batch).tokens

    def _note(self, batch: Batch, outputs: Foreign) -> None:
        sums = outputs.log_probs.detach().sum(1).chunk(2)
        better, worse = (
            each - batch[name] for each, name in zip(sums, _REFERENCE_COLUMNS, strict=True)
        )
        figures = {
            "rewards/chosen": self.beta * better,
            "rewards/rejected": self.beta * worse,
            "rewards/margins": self.beta * (better - worse),
            # TRL calls a tie wrong, and so an untrained policy worse than chance.
            "rewards/accuracies": ordered(better - worse, ROUNDING),
            "logps/chosen": sums[0],
            "logps/rejected": sums[1],
        }
        self.rows.note(batch, **figures)


def _columns(sums: torch.Tensor) -> Batch:
    return dict(zip(_REFERENCE_COLUMNS, sums.chunk(2), strict=True))
