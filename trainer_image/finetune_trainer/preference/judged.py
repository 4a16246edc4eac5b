"""Judged rows as a data set of KTO, each with an answer to another prompt beside its own.

Used by the recipe and the trainer of KTO. The strange answers tell how far the policy has moved from the
reference on the whole; they are those of the same step, passed on by one row, so that rows stay where
they are.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datasets import Dataset

from finetune_trainer.batches import derived_dataset
from finetune_trainer.data.mapped import at
from finetune_trainer.data.rows import JudgedRow
from finetune_trainer.data.store import TokenStore

# Columns of the log-probabilities of the reference, as TRL's collator knows them.
OWN, STRANGE = "ref_logps", "ref_KL_logps"


@dataclass(frozen=True)
class JudgedColumns:
    """A row as TRL's collator takes it.

    Attributes:
        prompt_ids: Tokens before the answers.
        completion_ids: The row's own answer.
        KL_completion_ids: The answer of another row.
        label: Whether its own was judged good.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    KL_completion_ids: list[int]
    label: bool

    @property
    def length(self) -> int:
        """Tokens of the prompt with its own answer."""
        return len(self.prompt_ids) + len(self.completion_ids)


def shuffled(rows: Sequence[JudgedRow], seed: int) -> Sequence[JudgedRow]:
    """The rows in the order in which they are trained on, in every epoch."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)  # noqa: S311
    return at(rows, order)


def dataset(
    rows: Sequence[JudgedRow], step: int, store: TokenStore | None = None, name: str = "judged"
) -> Dataset:
    """The rows as TRL's collator takes them.

    Args:
        rows: At least two, in the order of training.
        step: Rows of one step.
        store: Where rows are kept; in memory without one.
        name: Of the file there.
    """

    def columns() -> Iterator[JudgedColumns]:
        for row, other in zip(rows, partners(len(rows), step), strict=True):
            strange = rows[other].completion_ids
            yield JudgedColumns(row.prompt_ids, row.completion_ids, strange, row.desirable)

    return derived_dataset(name, JudgedColumns, rows, f"steps of {step}", columns, store)


def partners(count: int, step: int) -> list[int]:
    """For each row, the number of the row whose answer it is held against.

    >>> partners(7, 3)
    [2, 0, 1, 5, 3, 4, 5]
    """
    found = []
    for first in range(0, count, step):
        last = min(first + step, count) - 1
        # A row that is a step by itself has no neighbour there.
        found += [last if last > first else first - 1, *range(first, last)]
    return found
