"""Judged rows as a data set of KTO, each with an answer to another prompt beside its own.

Used by the recipe and the trainer of KTO. The strange answers tell how far the policy has moved from the
reference on the whole; they are those of the same step, passed on by one row, so that rows stay where
they are.
"""

import random
from collections.abc import Sequence

from datasets import Dataset

from finetune_trainer.data.rows import JudgedRow

# Columns of the log-probabilities of the reference, as TRL's collator knows them.
OWN, STRANGE = "ref_logps", "ref_KL_logps"


def shuffled(rows: Sequence[JudgedRow], seed: int) -> list[JudgedRow]:
    """The rows in the order in which they are trained on, in every epoch."""
    order = list(rows)
    random.Random(seed).shuffle(order)  # noqa: S311
    return order


def dataset(rows: Sequence[JudgedRow], step: int) -> Dataset:
    """The rows as TRL's collator takes them.

    Args:
        rows: At least two, in the order of training.
        step: Rows of one step.
    """
    return Dataset.from_dict(
        {
            "prompt_ids": [row.prompt_ids for row in rows],
            "completion_ids": [row.completion_ids for row in rows],
            "KL_completion_ids": [
                rows[other].completion_ids for other in partners(len(rows), step)
            ],
            "label": [row.desirable for row in rows],
        }
    )


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
