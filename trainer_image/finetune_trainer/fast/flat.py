"""Batches without padding: all rows of a forward pass in one long row, each seeing itself alone.

Called by the recipe of SFT where `fast.choice` has proved on real rows that the model keeps them apart.
How the long row is divided is built once a batch and handed to every layer (`fast.prefix_attention`).
Positions begin again with each row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.batches import PACKED, Batch, Collator
from finetune_trainer.data.rows import IGNORED
from finetune_trainer.fast.prefixes import Group, Layout

LAYOUT = "layout"


@dataclass(frozen=True)
class FlatCollator(Collator):
    """Makes batches of shape (1, all tokens); packed rows are taken apart into those they hold."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """`input_ids`, `labels`, `position_ids`, and `layout`, which is no tensor."""
        lengths = [length for example in examples for length in _lengths(example)]
        labels = [label for example in examples for label in example["labels"]]
        # The last token of a row does not predict the first of the next.
        for start in _starts(lengths):
            labels[start] = IGNORED
        return {
            "input_ids": torch.tensor([[i for each in examples for i in each["input_ids"]]]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            # A mask of four dimensions is taken as it is; the layout says what it does not.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool),
            LAYOUT: Layout((Group(0, tuple(lengths)),)),  # type: ignore[dict-item]
        }

    def _on(self, device: str, batch: Batch) -> Batch:
        return {
            name: each.to(device) if isinstance(each, torch.Tensor) else each
            for name, each in batch.items()
        }


def tokens(batch: Batch) -> int | torch.Tensor:
    """Real tokens of a batch: padded, packed or flat."""
    padded = LAYOUT not in batch and "attention_mask" in batch
    return batch["attention_mask"].sum() if padded else batch["input_ids"].numel()


def _lengths(example: Mapping[str, Any]) -> Iterable[int]:
    return example.get(PACKED) or [len(example["input_ids"])]


def _starts(lengths: Sequence[int]) -> Iterable[int]:
    place = 0
    for length in lengths:
        yield place
        place += length
