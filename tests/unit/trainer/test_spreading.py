"""Each row of a pass counts once, however many processes share it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from datasets import Dataset
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from finetune_trainer.batches import Collator
from finetune_trainer.data.rows import IGNORED
from finetune_trainer.spreading import Spread, Void, spread


@contextmanager
def process(rank: int, size: int) -> Iterator[None]:
    with patch.dict(os.environ, {"RANK": str(rank), "WORLD_SIZE": str(size)}):
        yield


class Divided:
    """As accelerate wraps a batch sampler."""

    def __init__(self, batches: BatchSampler) -> None:
        self.batch_sampler = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batch_sampler)

    def __len__(self) -> int:
        return len(self.batch_sampler)


@pytest.mark.parametrize(
    ("rows", "size", "processes"), [(22, 4, 2), (16, 4, 2), (5, 2, 4), (1, 8, 3)]
)
def test_every_row_once_and_as_many_batches_each(rows: int, size: int, processes: int) -> None:
    seen, lengths = [], set()
    for rank in range(processes):
        with process(rank, processes):
            batches = Spread(range(rows), size)
            found = list(batches)
            assert len(found) == len(batches)
        lengths.add(len(found))
        seen += [row for batch in found for row in batch if row >= 0]
    assert sorted(seen) == list(range(rows))
    assert len(lengths) == 1


def test_a_step_has_the_rows_that_it_has_with_one_process() -> None:
    found = []
    for rank in range(2):
        with process(rank, 2):
            found.append(list(Spread(range(16), 2)))
    # Batches of 8 rows: two passes of 2 rows on each of two processes.
    passes = [[*found[0][first : first + 2], *found[1][first : first + 2]] for first in (0, 2)]
    steps = [sorted(row for batch in step for row in batch) for step in passes]
    assert steps == [list(range(8)), list(range(8, 16))]


def test_a_void_batch_has_no_labels() -> None:
    rows = Dataset.from_dict({"input_ids": [[1, 2], [3, 4, 5]], "labels": [[1, 2], [3, 4, 5]]})
    sampler = Divided(BatchSampler(SequentialSampler(rows), batch_size=2, drop_last=False))
    with process(1, 2):
        loader = spread(DataLoader(rows, batch_sampler=sampler, collate_fn=Collator(0)))
        [batch] = list(loader)
    assert isinstance(batch, Void)
    assert torch.equal(batch["input_ids"], torch.tensor([[1, 2]]))
    assert torch.equal(batch["labels"], torch.full((1, 2), IGNORED))
    with process(0, 2):
        [batch] = list(spread(DataLoader(rows, batch_sampler=sampler, collate_fn=Collator(0))))
    assert not isinstance(batch, Void)
    assert (batch["labels"] != IGNORED).sum() == 5
