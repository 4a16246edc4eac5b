"""CSV and TSV: a header, then one row a record, every value a string.

A record may span lines inside quotes; its origin is the line where it begins.
"""

import csv
from collections.abc import Iterator, Sequence

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.readers.limits import MAX_LINE
from finetune_trainer.data.readers.row import Row, invalid
from finetune_trainer.data.readers.text import lines
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign


def read(file: DataFile) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        TrainerError: DataInvalid naming the line; DataEmpty if there is a header only.
    """
    delimiter = "\t" if ".tsv" in file.name.lower() else ","
    csv.field_size_limit(MAX_LINE)
    records = _records(file, csv.reader(lines(file), delimiter=delimiter, strict=True))
    origin, header = next(records, ("", []))
    _check_header(header, origin, delimiter)
    empty = bool(header)
    for origin, values in records:
        if len(values) != len(header):
            what = f"{len(values)} values, but the header has {len(header)} columns"
            raise invalid(origin, what, "Quote values that hold the delimiter or line breaks.")
        empty = False
        yield Row(dict(zip(header, values, strict=True)), origin)
    if empty:
        raise TrainerError(Reason.DATA_EMPTY, f"{file.name} has a header but no rows")


def _records(file: DataFile, reader: Foreign) -> Iterator[tuple[str, list[str]]]:
    while True:
        origin = f"{file.name} line {reader.line_num + 1}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise invalid(origin, f"not valid CSV: {error}") from None
        if values:
            yield origin, values


def _check_header(header: Sequence[str], origin: str, delimiter: str) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise invalid(origin, f"the column {twice!r} stands twice in the header")
    if len(header) == 1 and delimiter == "," and ";" in header[0]:
        what = f"one column named {header[0]!r}; the values seem to be separated by semicolons"
        raise invalid(origin, what, "Separate them by commas, or write JSON Lines.")
