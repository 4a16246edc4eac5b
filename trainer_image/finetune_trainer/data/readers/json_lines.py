"""JSON Lines: one object a line, also packed by gzip or zstd. Empty lines count but are no rows."""

from collections.abc import Iterator

from finetune_trainer.data.files import DataFile
from finetune_trainer.data.readers.json_text import object_of, parse
from finetune_trainer.data.readers.row import Row
from finetune_trainer.data.readers.text import lines


def read(file: DataFile) -> Iterator[Row]:
    """The rows of a file."""
    for number, line in enumerate(lines(file), start=1):
        if line.strip():
            origin = f"{file.name} line {number}"
            yield Row(object_of(parse(line, origin), origin), origin)
