"""Rows read while training goes on, for data that does not fit into memory.

Made by `data.load` when `data.streaming` is set. Files are read pass after pass, in an order drawn anew
for each, and rows leave through a buffer that shuffles them; the same seed gives the same order. Only
the beginning of each file is checked beforehand; a bad row further on ends the run when it is met.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from finetune_api.v1alpha1.data import DataFormat
from finetune_trainer.data.columns import rename
from finetune_trainer.data.examples import Example
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.formats import recognise, to_examples
from finetune_trainer.data.read import read_rows
from finetune_trainer.data.readers.row import Row

FIRST_ROWS = 1000
"""Rows that are looked at before training, over all files."""
BUFFER_ROWS = 2000
"""Rows that are held to be shuffled."""


@dataclass(frozen=True)
class Stream:
    """The training rows of a job, without end.

    Attributes:
        files: Its files.
        columns: `data.columns`.
        data_format: The format of all rows.
        seed: Draws the order of files and rows.
    """

    files: tuple[DataFile, ...]
    columns: Mapping[str, str] | None
    data_format: DataFormat
    seed: int

    def examples(self) -> Iterator[Example]:
        """Checked examples, pass after pass; each pass has every row once.

        Raises:
            TrainerError: A reason of the data, naming file and line, when a bad row is met.
        """
        chance = random.Random(self.seed)  # noqa: S311
        while True:
            files = chance.sample(self.files, len(self.files))
            yield from shuffled(self._checked(files), BUFFER_ROWS, chance)

    def _checked(self, files: Sequence[DataFile]) -> Iterator[Example]:
        for row in rename(read_rows(files), self.columns):
            recognise([row], self.data_format, (self.data_format,), "")
            yield from to_examples([row], self.data_format)


def first_rows(files: Sequence[DataFile], columns: Mapping[str, str] | None) -> list[Row]:
    """The beginning of every file, about `FIRST_ROWS` rows in all."""
    each = -(-FIRST_ROWS // len(files))
    return [row for file in files for row in islice(rename(read_rows([file]), columns), each)]


def shuffled(items: Iterable[Example], size: int, chance: random.Random) -> Iterator[Example]:
    """The items in random order, as far as a buffer of `size` items allows."""
    buffer: list[Example] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
            continue
        place = chance.randrange(size)
        buffer[place], item = item, buffer[place]  # noqa: PLW2901
        yield item
    chance.shuffle(buffer)
    yield from buffer
