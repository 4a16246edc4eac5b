"""Readers: from a data file to rows, one module a file format.

Looked up by the file's name. Every row says where it stands (line, item or row); nothing is skipped:
what cannot be read ends the run with its place. None of them imports torch.
"""

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from finetune_trainer.data.files import DataFile
from finetune_trainer.data.readers import arrow, csv_table, json_lines, json_list, parquet
from finetune_trainer.data.readers.row import Row

Reader = Callable[[DataFile], Iterator[Row]]

READERS: dict[str, Reader] = {
    ".jsonl": json_lines.read,
    ".ndjson": json_lines.read,
    ".json": json_list.read,
    ".csv": csv_table.read,
    ".tsv": csv_table.read,
    ".parquet": parquet.read,
    ".arrow": arrow.read,
}


def read(file: DataFile) -> Iterator[Row]:
    """The rows of a file, as they are needed.

    Raises:
        TrainerError: DataInvalid, DataEncodingUnknown, DataCorrupt or DataTooLarge with the place.
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(file.name).suffixes]
    return READERS[next(suffix for suffix in reversed(suffixes) if suffix in READERS)](file)
