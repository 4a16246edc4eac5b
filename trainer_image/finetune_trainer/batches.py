"""Token rows as padded tensors, and as the data set that the trainer takes.

Used by the recipe, by `evaluation` and by `verify`. Padding is masked by position: attention 0 and
label -100, whatever the pad token is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, IterableDataset

from finetune_trainer.data.rows import IGNORED, TokenRow

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Collator:
    """Makes batches, padded on the right to their longest row.

    Attributes:
        pad_token_id: Fills up shorter rows.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """`input_ids`, `labels` and `attention_mask`, each of shape (rows, longest row)."""
        ids = [list(example["input_ids"]) for example in examples]
        labels = [list(example["labels"]) for example in examples]
        return {
            "input_ids": _padded(ids, self.pad_token_id),
            "labels": _padded(labels, IGNORED),
            "attention_mask": _padded([[1] * len(row) for row in ids], 0),
        }

    def of_rows(self, rows: Sequence[TokenRow], device: str) -> Batch:
        """The same of token rows, on a device."""
        batch = self([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
        return {name: tensor.to(device) for name, tensor in batch.items()}


def dataset(rows: Sequence[TokenRow]) -> Dataset:
    """The rows as TRL takes them; `length` serves the sampler that groups by it."""
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [row.labels for row in rows],
            "length": [len(row.input_ids) for row in rows],
        }
    )


def streaming_dataset(rows: Callable[[], Iterator[TokenRow]]) -> IterableDataset:
    """Rows without end, as TRL takes them; each iteration begins anew."""

    def columns() -> Iterator[dict[str, list[int]]]:
        return ({"input_ids": row.input_ids, "labels": row.labels} for row in rows())

    return IterableDataset.from_generator(columns)


def _padded(rows: Sequence[list[int]], fill: int) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])
