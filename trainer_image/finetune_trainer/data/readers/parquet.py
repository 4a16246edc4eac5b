"""Parquet, a few hundred rows at a time."""

from collections.abc import Iterator

from finetune_trainer.data.files import DataFile
from finetune_trainer.data.readers.limits import Unpacked
from finetune_trainer.data.readers.row import Row
from finetune_trainer.data.readers.tables import (
    BATCH_ROWS,
    batches,
    check_header,
    class_names,
    corrupt,
    rows_of,
)
from finetune_trainer.foreign import Foreign


def read(file: DataFile) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        TrainerError: DataCorrupt, DataTooLarge or DataInvalid.
    """
    if not file.path.stat().st_size:
        return
    table = _open(file)
    with table:
        schema = table.schema_arrow
        check_header(schema, file)
        names, count = class_names(schema), Unpacked(file)
        for first, batch in batches(table.iter_batches(batch_size=BATCH_ROWS), file):
            count.add(batch.nbytes)
            yield from rows_of(batch, file, first, names)


def _open(file: DataFile) -> Foreign:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file.path, memory_map=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise corrupt(file, 0, error) from None
