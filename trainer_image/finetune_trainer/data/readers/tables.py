"""Batches of Arrow columns as rows. Used by the readers of Parquet and Arrow.

Class numbers of hub data sets become the names that the file's metadata gives them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.readers.row import Row, invalid
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign

BATCH_ROWS = 256


def rows_of(
    batch: Foreign, file: DataFile, first: int, names: Mapping[str, list[str]]
) -> list[Row]:
    """The rows of a record batch.

    Args:
        batch: A `pyarrow.RecordBatch`.
        file: Where it comes from.
        first: Number of its first row in the file, counted from 1.
        names: Class names by column, as `class_names` finds them.
    """
    rows = []
    for number, columns in enumerate(batch.to_pylist(), start=first):
        origin = f"{file.name} row {number}"
        rows.append(Row({k: _named(v, names.get(k), origin) for k, v in columns.items()}, origin))
    return rows


def class_names(schema: Foreign) -> dict[str, list[str]]:
    """Names of classes by column, as the `datasets` library notes them in a schema's metadata."""
    note = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(note)["info"]["features"] if note else {}
    except (ValueError, KeyError, TypeError):
        # Metadata of others; the numbers stay numbers.
        return {}
    found = {name: _names_in(feature) for name, feature in features.items()}
    return {name: names for name, names in found.items() if names}


def check_header(schema: Foreign, file: DataFile) -> None:
    """Refuse a schema that names a column twice.

    Raises:
        TrainerError: DataInvalid.
    """
    names: Sequence[str] = schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise invalid(file.name, f"the column {twice!r} stands twice in the schema")


def corrupt(file: DataFile, row: int, error: Exception) -> TrainerError:
    """A table that cannot be read on."""
    where = f"{file.name} after row {row}" if row else file.name
    lines = str(error).strip().splitlines()
    message = f"{where}: cannot be read: {lines[0][:300] if lines else type(error).__name__}"
    return TrainerError(Reason.DATA_CORRUPT, message)


def _names_in(feature: object) -> list[str]:
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _names_in(feature.get("feature"))
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _named(value: object, names: list[str] | None, origin: str) -> object:
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(item, names, origin) for item in value]
    if not isinstance(value, int) or not 0 <= value < len(names):
        what = f"{value!r} is none of the {len(names)} classes in the file's metadata"
        raise invalid(origin, what)
    return names[value]


def batches(table: Iterator[Foreign], file: DataFile) -> Iterator[tuple[int, Foreign]]:
    """Batches with the number of their first row, counted from 1.

    Raises:
        TrainerError: DataCorrupt with the last row that was read.
    """
    import pyarrow

    row = 0
    while True:
        try:
            batch = next(table, None)
            if batch is None:
                return
            # Offsets of a damaged file may point anywhere.
            batch.validate(full=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise corrupt(file, row, error) from None
        yield row + 1, batch
        row += batch.num_rows
