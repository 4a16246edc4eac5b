"""Reading all rows of a source's files, in order. Used by `data.load`.

Every row keeps its origin, so that every later complaint can name it.
"""

from collections.abc import Iterator, Sequence

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.readers import read
from finetune_trainer.data.readers.row import Row
from finetune_trainer.errors import TrainerError


def read_rows(files: Sequence[DataFile]) -> Iterator[Row]:
    """All rows of the files, as they are needed.

    Raises:
        TrainerError: A reason of the data, naming file and line; DataEmpty naming the file.
    """
    for file in files:
        empty = True
        for row in read(file):
            empty = False
            yield row
        if empty:
            raise TrainerError(Reason.DATA_EMPTY, f"{file.name} has no rows")
