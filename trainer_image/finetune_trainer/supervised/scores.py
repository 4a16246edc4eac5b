"""Held-out figures of the supervised tasks: what the model says beside what is right, row by row.

Used by the recipes before, in and after training. Batches are made in an order that follows from the
rows alone, so that two evaluations see the same.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.batches import Batch
from finetune_trainer.data.mapped import longest_first
from finetune_trainer.data.rows import IGNORED, DataRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.resolve import Settings
from finetune_trainer.supervised.loss import Mean, judged


@dataclass(frozen=True)
class Scores:
    """What came out.

    Attributes:
        loss: In nats a label.
        right: The labels of each row.
        said: The likeliest label at each of these places.
    """

    loss: float
    right: list[list[int]]
    said: list[list[int]]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """What is right and what was said, over all rows."""
        rows = zip(self.right, self.said, strict=True)
        return [pair for row in rows for pair in zip(*row, strict=True)]


def score(
    model: Model,
    rows: Sequence[DataRow],
    settings: Settings,
    batch_of: Callable[[Sequence[DataRow]], Batch],
) -> Scores:
    """Ask the model about rows.

    Args:
        model: Left in the mode that it was in.
        rows: Held-out rows, at least one.
        settings: For batch size, device and precision.
        batch_of: Makes a batch with labels.

    Raises:
        TrainerError: Diverged if the loss is not a number.
    """
    ordered = longest_first(rows)
    size, training = settings.micro_batch_size, model.training
    model.eval()
    mean, found = Mean(), Scores(0.0, [], [])
    for first in range(0, len(ordered), size):
        batch = batch_of(ordered[first : first + size])
        on_device = {name: tensor.to(settings.device) for name, tensor in batch.items()}
        logits = judged(model, on_device, settings)
        mean.add(logits, on_device["labels"])
        _collect(found, batch["labels"], logits.argmax(-1).cpu())
    model.train(training)
    if not math.isfinite(mean.value):
        raise TrainerError(Reason.DIVERGED, f"the held-out loss is {mean.value}")
    return Scores(mean.value, found.right, found.said)


def _collect(found: Scores, labels: torch.Tensor, best: torch.Tensor) -> None:
    for row, said in zip(labels, best, strict=True):
        there = row != IGNORED
        found.right.append(row[there].flatten().tolist())
        found.said.append(said[there].flatten().tolist())
