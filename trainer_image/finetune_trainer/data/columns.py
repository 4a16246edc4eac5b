"""Foreign column names, mapped to the ones that the formats know.

Used by `data.load` right after reading, so that everything later knows one set of names.
"""

from collections.abc import Iterable, Iterator, Mapping

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.readers.row import Row
from finetune_trainer.errors import TrainerError


def rename(rows: Iterable[Row], columns: Mapping[str, str] | None) -> Iterator[Row]:
    """The rows with their columns under the names of `data.columns`.

    Args:
        rows: As they were read.
        columns: The name in the file, by the name that the format expects. A column of the file
            that has the expected name already is replaced.

    Raises:
        TrainerError: ColumnNotFound naming the row and what is there.
    """
    if not columns:
        yield from rows
        return
    taken = set(columns.values())
    for row in rows:
        kept = {name: value for name, value in row.columns.items() if name not in taken}
        yield Row(kept | {name: _value(row, name, columns) for name in columns}, row.origin)


def _value(row: Row, name: str, columns: Mapping[str, str]) -> object:
    foreign = columns[name]
    if foreign in row.columns:
        return row.columns[foreign]
    there = ", ".join(sorted(row.columns)[:30]) or "none"
    message = f"{row.origin}: `data.columns` takes {name} from {foreign}, but there are {there}"
    raise TrainerError(Reason.COLUMN_NOT_FOUND, message)
