"""Token rows as padded tensors, and as the data set that the trainer takes.

Used by the recipe, by `evaluation` and by `verify`. Padding is masked by position: attention 0 and
label -100, whatever the pad token is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from datasets import Dataset, IterableDataset

from finetune_trainer.data.mapped import MappedRows, Measured
from finetune_trainer.data.packed_row import PackedColumns, PackedRow, PackedRows
from finetune_trainer.data.rows import IGNORED, SequenceRow, TokenRow
from finetune_trainer.data.store import TokenStore

# The one column besides ids and labels that TRL does not drop: tokens of each row in a sequence.
PACKED = "seq_lengths"

Batch = dict[str, torch.Tensor]
R = TypeVar("R", bound=Measured)


@dataclass(frozen=True)
class Collator:
    """Makes batches, padded on the right to their longest row; the labels of sequence rows to theirs.

    Attributes:
        pad_token_id: Fills up shorter rows.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """`input_ids`, `labels` and `attention_mask`, each of shape (rows, longest row).

        Packed rows have `position_ids` in place of the mask: they begin again with each row, by which
        the model keeps rows apart, and with the padding, which is then nobody's.
        """
        ids = [list(example["input_ids"]) for example in examples]
        batch = {
            "input_ids": padded(ids, self.pad_token_id),
            "labels": padded([list(example["labels"]) for example in examples], IGNORED),
        }
        if PACKED not in examples[0]:
            return {**batch, "attention_mask": padded([[1] * len(row) for row in ids], 0)}
        width = batch["input_ids"].shape[1]
        positions = [_positions(example[PACKED], width) for example in examples]
        return {**batch, "position_ids": torch.tensor(positions)}

    def of_rows(self, rows: Sequence[TokenRow | SequenceRow], device: str) -> Batch:
        """The same of token rows, on a device."""
        return self._on(
            device, self([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
        )

    def of_packed(self, packed: Sequence[PackedRow], device: str) -> Batch:
        """The same of packed rows."""
        return self._on(device, self([_columns(each) for each in packed]))

    def _on(self, device: str, batch: Batch) -> Batch:
        return {name: tensor.to(device) for name, tensor in batch.items()}


def packed_dataset(packed: Sequence[PackedRow], store: TokenStore | None = None) -> Dataset:
    """Packed rows as TRL takes them; in a file that is mapped if their rows are."""
    rows, how = (packed.rows, packed.digest) if isinstance(packed, PackedRows) else ([], "")

    def made() -> Iterator[PackedColumns]:
        return (each.columns for each in packed)

    return derived_dataset("packed", PackedColumns, rows, how, made, store)


def derived_dataset(
    name: str,
    kind: type[R],
    rows: Sequence[Any],
    how: str,
    make: Callable[[], Iterable[R]],
    store: TokenStore | None,
) -> Dataset:
    """Columns that are made of rows, with their `length`; in a file that is mapped if the rows are.

    Args:
        name: Of the file.
        kind: A dataclass with the columns as fields.
        rows: What they are made of.
        how: In words: another way, another file.
        make: Makes them.
        store: Where rows are kept; in memory without one.
    """
    names = [*(field.name for field in fields(kind)), "length"]  # type: ignore[arg-type]
    if store and isinstance(rows, MappedRows):
        return mapped_dataset(store.derived(name, kind, rows, how, make), names)
    found = list(make())
    return Dataset.from_dict({name: [getattr(each, name) for each in found] for name in names})


def _columns(packed: PackedRow) -> dict[str, list[int]]:
    return {"input_ids": packed.input_ids, "labels": packed.labels, PACKED: packed.lengths}


def _positions(lengths: Sequence[int], width: int) -> list[int]:
    parts = [*lengths, width - sum(lengths)]
    return [position for length in parts for position in range(length)]


def dataset(rows: Sequence[TokenRow | SequenceRow]) -> Dataset:
    """The rows as trainers take them; `length` serves the sampler that groups by it."""
    if isinstance(rows, MappedRows):
        return mapped_dataset(rows, ["input_ids", "labels", "length"])
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [row.labels for row in rows],
            "length": [row.length for row in rows],
        }
    )


def mapped_dataset(rows: MappedRows[Any], columns: list[str]) -> Dataset:
    """Columns of mapped rows; the library maps the same file."""
    whole = Dataset.from_file(str(rows.path)).select_columns(columns)
    return whole.select(rows.numbers)


def streaming_dataset(rows: Callable[[], Iterator[TokenRow]]) -> IterableDataset:
    """Rows without end, as TRL takes them; each iteration begins anew."""

    def columns() -> Iterator[dict[str, list[int]]]:
        return ({"input_ids": row.input_ids, "labels": row.labels} for row in rows())

    return IterableDataset.from_generator(columns)


def padded(rows: Sequence[list[int]], fill: int) -> torch.Tensor:
    """The rows as one tensor, filled up on the right to the longest."""
    width = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])
