"""Proof that rows in one sequence do not see each other: their logits are those of each row alone.

Called by the recipe of SFT once the model is loaded, on real rows. No list says which models and
attention backends keep rows apart: each run finds out for its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest

import torch

from finetune_trainer.batches import Batch, Collator
from finetune_trainer.data.packed_row import PackedRow
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.evaluation import autocast
from finetune_trainer.foreign import Model
from finetune_trainer.resolve import Settings

SEQUENCES = 2
"""Sequences that are tried together, so that one of them is padded."""
# By precision: float32 sums in another order; bfloat16 rounds each of them to three digits.
TOLERANCES = {"Float32": 1e-4, "BFloat16": 5e-2}


@dataclass(frozen=True)
class Isolation:
    """What came out.

    Attributes:
        difference: Largest difference of a logit, in terms of the largest logit.
        tolerance: What arithmetic alone may cause.
        rows: How many rows were compared.
    """

    difference: float
    tolerance: float
    rows: int

    @property
    def holds(self) -> bool:
        """Whether the rows are apart."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        """The finding in a sentence."""
        return (
            f"the logits of {self.rows} rows in one sequence and of each alone differ by "
            f"{self.difference:.2g} of the largest (tolerance {self.tolerance:.2g})"
        )


def prove(
    model: Model,
    packed: Sequence[PackedRow],
    collator: Collator,
    settings: Settings,
    alone: Collator | None = None,
) -> Isolation:
    """Compare the shortest sequences that hold several rows with these rows alone.

    Args:
        model: As it is trained.
        packed: All sequences.
        collator: Makes the batches that are trained on.
        settings: For device and precision.
        alone: Makes the batches of rows alone, if not the same.
    """
    several = (each for each in packed if len(each.rows) > 1)
    chosen = nsmallest(SEQUENCES, several, key=lambda each: each.length)
    tolerance = TOLERANCES[settings.precision]
    if not chosen:
        return Isolation(0.0, tolerance, 0)
    training = model.training
    model.eval()
    try:
        together = _logits(model, collator.of_packed(chosen, settings.device), settings)
        pairs = [
            (
                together[number, start : start + row.length],
                _alone(model, row, alone or collator, settings),
            )
            for number, each in enumerate(chosen)
            for start, row in zip(_starts(each), each.rows, strict=True)
        ]
    finally:
        model.train(training)
    scale = max(1.0, *(float(alone.abs().max()) for _, alone in pairs))
    difference = max(float((within - alone).abs().max()) for within, alone in pairs)
    return Isolation(difference / scale, tolerance, len(pairs))


def _starts(packed: PackedRow) -> list[int]:
    return [sum(packed.lengths[:number]) for number in range(len(packed.rows))]


def _alone(model: Model, row: TokenRow, collator: Collator, settings: Settings) -> torch.Tensor:
    return _logits(model, collator.of_rows([row], settings.device), settings)[0]


def _logits(model: Model, batch: Batch, settings: Settings) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad(), autocast(settings):
        return torch.as_tensor(model(**inputs, use_cache=False).logits).float()
