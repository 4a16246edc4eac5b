"""Several rows in one sequence. Made by `data.packing`, read by `batches` and `isolation`."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from finetune_trainer.data.rows import IGNORED, TokenRow


@dataclass(frozen=True)
class PackedRow:
    """Rows that stand in one sequence, one after the other, and must not see each other.

    Attributes:
        rows: The rows; their tokens are never cut or joined.
    """

    rows: tuple[TokenRow, ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [row.length for row in self.rows]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return sum(self.lengths)

    @property
    def columns(self) -> "PackedColumns":
        """Tokens and labels without the rows."""
        return PackedColumns(self.input_ids, self.labels, self.lengths)

    @property
    def input_ids(self) -> list[int]:
        """All tokens."""
        return [token for row in self.rows for token in row.input_ids]

    @property
    def labels(self) -> list[int]:
        """All labels; a row's first token is never predicted, least of all from the row before."""
        return [label for row in self.rows for label in (IGNORED, *row.labels[1:])]


@dataclass(frozen=True)
class PackedColumns:
    """The same as it is trained on.

    Attributes:
        input_ids: All tokens.
        labels: All labels.
        seq_lengths: Tokens of each row.
    """

    input_ids: list[int]
    labels: list[int]
    seq_lengths: list[int]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.input_ids)


@dataclass(frozen=True)
class PackedRows(Sequence[PackedRow]):
    """Sequences that are put together when they are asked for.

    Attributes:
        rows: All rows.
        groups: Which of them stand together.
    """

    rows: Sequence[TokenRow]
    groups: Sequence[Sequence[int]]

    @property
    def digest(self) -> str:
        """Of which rows stand together."""
        return hashlib.sha256(repr(self.groups).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[PackedRow]:
        return (self._row(group) for group in self.groups)

    @overload
    def __getitem__(self, index: int) -> PackedRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[PackedRow]: ...

    def __getitem__(self, index: int | slice) -> PackedRow | list[PackedRow]:
        if isinstance(index, slice):
            return [self._row(group) for group in self.groups[index]]
        return self._row(self.groups[index])

    def _row(self, group: Sequence[int]) -> PackedRow:
        return PackedRow(tuple(self.rows[index] for index in group))
