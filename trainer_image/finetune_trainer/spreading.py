"""The rows of each optimiser step, spread over the processes so that each row counts once.

Called by `distributed` for trainers of transformers. Their own way gives the processes equal numbers of
rows by taking some a second time at the end of a pass; the loss of that step is then another one than
with one process. Here a process that has no rows left takes a void batch, which counts for nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import ceil
from typing import Any, TypeVar

import torch
from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from finetune_trainer import processes
from finetune_trainer.batches import Batch
from finetune_trainer.data.rows import IGNORED
from finetune_trainer.foreign import Foreign

_VOID = -1
_FLAG = "void"
Item = TypeVar("Item")


class Void(dict[str, Any]):
    """A batch that every process must go through and that counts for nothing."""


class Spread(Sampler[list[int]]):
    """Row numbers of this process's batches: every so-manieth batch of the common order.

    Args:
        order: Row numbers of a pass, the same in each process.
        size: Rows of a batch.
    """

    def __init__(self, order: Foreign, size: int) -> None:
        self.sampler, self.batch_size, self.drop_last = order, size, False
        self._rank, self._world = processes.rank(), processes.world_size()

    def __len__(self) -> int:
        """Batches of each process in a pass."""
        return ceil(ceil(len(self.sampler) / self.batch_size) / self._world)

    def __iter__(self) -> Iterator[list[int]]:
        """Row numbers of each batch."""
        for together in _parts(_parts(self.sampler, self.batch_size), self._world):
            yield together[self._rank] if self._rank < len(together) else [_VOID]


def _parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


class _WithVoid(Dataset[Any]):
    def __init__(self, rows: Foreign) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number == _VOID:
            return {**self._rows[0], _FLAG: True}
        return dict(self._rows[number])


def collated(
    collate: Callable[[Sequence[Mapping[str, Any]]], Batch], rows: Sequence[dict[str, Any]]
) -> Batch:
    """The rows as a batch; a void one keeps its shape and loses its labels."""
    batch = collate([{name: row[name] for name in row if name != _FLAG} for row in rows])
    # It is alone in its batch.
    if _FLAG not in rows[0]:
        return batch
    if "labels" in batch:
        batch["labels"].fill_(IGNORED)
    return Void(batch)


class _Part(IterableDataset[Any]):
    """This process's part of rows that come without end: every so-manieth batch of them.

    Each process reads and tokenizes all rows, so that none waits for another's.
    """

    def __init__(self, rows: Foreign, size: int) -> None:
        self._rows, self._size = rows, size

    def __iter__(self) -> Iterator[Any]:
        """The rows, one by one."""
        rank, world = processes.rank(), processes.world_size()
        for together in _parts(_parts(self._rows, self._size), world):
            yield from together[rank]


def uneven(gather: Callable[[Foreign], Foreign]) -> Callable[[Foreign], Foreign]:
    """`gather` of accelerate, for tensors that may have fewer rows on some processes.

    TRL gathers figures of each row; the library takes all processes to have as many.
    """

    def gathered(found: Foreign) -> Foreign:
        if not isinstance(found, torch.Tensor) or found.dim() == 0:
            return gather(found)
        rows = [count for (count,) in processes.gather_counts(len(found))]
        most = max(rows)
        filler = found.new_zeros((most - len(found), *found.shape[1:]))
        parts = gather(torch.cat([found, filler])).split(most)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    return gathered


def spread(loader: Foreign) -> DataLoader[Any]:
    """The same rows in the same order as one process takes them.

    Args:
        loader: From `Trainer.get_train_dataloader`, with batches divided among processes.
    """
    rows: Foreign = loader.dataset
    if isinstance(rows, IterableDatasetShard):
        # accelerate has divided them already.
        rows = rows.dataset
    if isinstance(rows, IterableDataset):
        return DataLoader(
            _Part(rows, loader.batch_size),
            batch_size=loader.batch_size,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
        )
    batches = loader.batch_sampler.batch_sampler
    collate = loader.collate_fn
    return DataLoader(
        _WithVoid(loader.dataset),
        batch_sampler=Spread(batches.sampler, batches.batch_size),
        collate_fn=lambda rows: collated(collate, rows),
        pin_memory=loader.pin_memory,
    )
