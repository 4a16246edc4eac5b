"""The loss of the supervised tasks: cross entropy, summed over everything that carries a label.

Used by the trainer of these tasks and by their evaluation, so that both mean the same. What a label is
differs: a class a row, a tag a word, a hidden token, or a token that the decoder writes.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from finetune_trainer.batches import Batch
from finetune_trainer.data.rows import IGNORED
from finetune_trainer.evaluation import autocast
from finetune_trainer.foreign import Model
from finetune_trainer.resolve import Settings


def label_logits(model: Model, batch: Batch) -> torch.Tensor:
    """What the model says where labels stand.

    Args:
        model: With any head that has labels; PEFT's wrapper of one too.
        batch: With `labels`.

    Returns:
        Of the shape of the labels, and (classes or vocabulary) at the end.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    # A decoder that writes reads what it should have written, one place later; one that classifies
    # makes its own of the input.
    if shift := getattr(model, "prepare_decoder_input_ids_from_labels", None):
        inputs["decoder_input_ids"] = shift(labels=batch["labels"])
    logits: torch.Tensor = model(**inputs).logits
    return logits


def summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy in nats, in float32, summed over all labels but -100; 0 without any."""
    flat = logits.float().flatten(0, -2)
    return cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum")


@dataclass
class Mean:
    """A mean loss that grows batch by batch.

    Attributes:
        loss: The sum so far, in nats.
        labels: How many labels it is of.
    """

    loss: float = 0.0
    labels: int = 0

    @property
    def value(self) -> float:
        """Loss in nats a label."""
        return self.loss / max(1, self.labels)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one batch into account."""
        self.loss += float(summed(logits, labels))
        self.labels += int((labels != IGNORED).sum())


def judged(model: Model, batch: Batch, settings: Settings) -> torch.Tensor:
    """`label_logits` without gradients, in the precision of the run."""
    with torch.no_grad(), autocast(settings):
        return label_logits(model, batch)
