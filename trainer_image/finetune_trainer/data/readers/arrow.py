"""Arrow IPC, both as a file and as a stream (which `datasets` writes), batch by batch."""

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

_FILE_MARK = b"ARROW1"


def read(file: DataFile) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        TrainerError: DataCorrupt, DataTooLarge or DataInvalid.
    """
    if not file.path.stat().st_size:
        return
    schema, table = _open(file)
    check_header(schema, file)
    names, count = class_names(schema), Unpacked(file)
    for first, batch in batches(table, file):
        count.add(batch.nbytes)
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            yield from rows_of(part, file, first + start, names)


def _open(file: DataFile) -> tuple[Foreign, Iterator[Foreign]]:
    import pyarrow
    from pyarrow import ipc

    try:
        source = pyarrow.memory_map(str(file.path))
        if file.path.open("rb").read(len(_FILE_MARK)) == _FILE_MARK:
            opened = ipc.open_file(source)
            return opened.schema, (
                opened.get_batch(index) for index in range(opened.num_record_batches)
            )
        stream = ipc.open_stream(source)
        return stream.schema, iter(stream)
    except (pyarrow.ArrowException, OSError) as error:
        raise corrupt(file, 0, error) from None
