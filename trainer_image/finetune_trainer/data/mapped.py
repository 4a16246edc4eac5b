"""Rows of tokens in an Arrow file that is mapped into memory and not read into it.

Written and opened by `data.store`. A row is made when it is asked for, so memory does not grow with the data,
and all processes that map a file share the pages of it that are in use. The file is Arrow's stream format,
which `datasets` maps too. What the rows are is not decided here.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, get_type_hints, overload

import numpy as np
import pyarrow as pa

from finetune_trainer.data import plain
from finetune_trainer.data.encode import batched


class Measured(Protocol):
    """What can be kept: a dataclass of numbers, texts, lists of numbers and columns, with a length."""

    @property
    def length(self) -> int:
        """In tokens."""
        ...


R = TypeVar("R", bound=Measured)

_BATCH = 1000


@dataclass(frozen=True)
class _Kind:
    """How values of one type are kept.

    Attributes:
        type: Of the file's column.
        write: Makes what the column takes.
        read: Makes, of a part of the column, what gives the value at a place of it.
    """

    type: Any
    write: Callable[[Any], object]
    read: Callable[[Any], Callable[[int], object]]


def _as_is(value: object) -> object:
    return value


def _values(part: Any) -> Callable[[int], object]:  # noqa: ANN401 - pyarrow has no types
    return lambda place: part[place].as_py()


def _lists(part: Any) -> Callable[[int], object]:  # noqa: ANN401
    values, ends = part.values.to_numpy(), part.offsets.to_numpy()
    return lambda place: values[ends[place] : ends[place + 1]].tolist()


def _by_name(part: Any) -> Callable[[int], object]:  # noqa: ANN401
    return lambda place: plain.from_text(part[place].as_py())


_KINDS: dict[object, _Kind] = {
    list[int]: _Kind(pa.list_(pa.int32()), _as_is, _lists),
    int: _Kind(pa.int64(), _as_is, _values),
    bool: _Kind(pa.bool_(), _as_is, _values),
    str: _Kind(pa.string(), _as_is, _values),
    Mapping[str, Any]: _Kind(pa.string(), plain.to_text, _by_name),
}


def write(path: Path, kind: type[R], rows: Iterable[R]) -> int:
    """Write rows, holding a few at a time; returns how many there are.

    Args:
        path: Where.
        kind: A dataclass whose fields are lists of integers, integers, booleans, texts and columns by name.
        rows: Of that kind.
    """
    count = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, _schema(kind)) as stream:
        for batch in batched(rows, _BATCH):
            stream.write_batch(_columns(kind, batch))
            count += len(batch)
    return count


def _kinds(kind: type[R]) -> dict[str, _Kind]:
    hints = get_type_hints(kind)
    return {each.name: _KINDS[hints[each.name]] for each in fields(kind)}  # type: ignore[arg-type]


def _schema(kind: type[R]) -> pa.Schema:
    columns = {**_kinds(kind), "length": _KINDS[int]}
    return pa.schema([(name, each.type) for name, each in columns.items()])


def _columns(kind: type[R], rows: Sequence[R]) -> pa.RecordBatch:
    columns = {**_kinds(kind), "length": _KINDS[int]}
    arrays = [
        pa.array([each.write(getattr(row, name)) for row in rows], type=each.type)
        for name, each in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_schema(kind))


class MappedRows(Sequence[R], Generic[R]):
    """Rows of one file, or some of them in an order of their own.

    Args:
        path: From `write`.
        kind: Of the rows.
        key: What they were made of.
        numbers: Which rows of the file; None for all.

    Attributes:
        path: The file.
        kind: Of the rows.
        key: What they were made of.
        numbers: Which rows of the file, shape (rows,), int64.
    """

    def __init__(
        self, path: Path, kind: type[R], key: str, numbers: np.ndarray[Any, Any] | None = None
    ) -> None:
        self.path, self.kind, self.key = path, kind, key
        self.numbers = np.arange(self._file.num_rows) if numbers is None else numbers

    @cached_property
    def _file(self) -> pa.Table:
        # The mapping lives as long as the table.
        return pa.ipc.open_stream(pa.memory_map(str(self.path))).read_all()

    @cached_property
    def _parts(self) -> list[tuple[Callable[[int], object], ...]]:
        """What gives the values of each column, for each part of the file."""
        columns = [
            [each.read(part) for part in self._file.column(name).chunks]
            for name, each in _kinds(self.kind).items()
        ]
        return list(zip(*columns, strict=True))

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[R]:
        return (self._row(int(number)) for number in self.numbers)

    @overload
    def __getitem__(self, index: int) -> R: ...

    @overload
    def __getitem__(self, index: slice) -> list[R]: ...

    def __getitem__(self, index: int | slice) -> R | list[R]:
        if isinstance(index, slice):
            return [self._row(int(number)) for number in self.numbers[index]]
        return self._row(int(self.numbers[index]))

    @property
    def digest(self) -> str:
        """Of which rows of the file these are."""
        return hashlib.sha256(self.numbers.tobytes()).hexdigest()

    @property
    def lengths(self) -> list[int]:
        """Of each row, in tokens."""
        found: list[int] = self._file.column("length").to_numpy()[self.numbers].tolist()
        return found

    def at(self, indices: Sequence[int]) -> "MappedRows[R]":
        """Some of these rows, in the order of the indices, which may repeat."""
        chosen = self.numbers[np.asarray(indices, dtype=np.int64)]
        return MappedRows(self.path, self.kind, self.key, chosen)

    def _row(self, number: int) -> R:
        part, place = divmod(number, _BATCH)
        return self.kind(*(value(place) for value in self._parts[part]))


def at(rows: Sequence[R], indices: Sequence[int]) -> Sequence[R]:
    """Some of the rows, in the order of the indices: mapped ones stay mapped."""
    return rows.at(indices) if isinstance(rows, MappedRows) else [rows[index] for index in indices]


def lengths(rows: Sequence[R]) -> list[int]:
    """Of each row, in tokens; of mapped ones without making them."""
    return rows.lengths if isinstance(rows, MappedRows) else [row.length for row in rows]


def longest_first(rows: Sequence[R]) -> Sequence[R]:
    """Rows of like length side by side, and what needs most memory first."""
    found = lengths(rows)
    return at(rows, sorted(range(len(rows)), key=found.__getitem__, reverse=True))
