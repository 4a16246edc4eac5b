"""The rows that are measured on: a fraction of the training rows, or the evaluation sources' own.

Used by `data.finish` after cleaning and before rows are drawn by weight, so that no row is on both
sides.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.given import Given
from finetune_trainer.data.mapped import at
from finetune_trainer.data.rows import DataRow
from finetune_trainer.errors import TrainerError

R = TypeVar("R", bound=DataRow)


def hold_out(
    given: Given, train: Sequence[R], evaluation: Sequence[R]
) -> tuple[Sequence[R], Sequence[R]]:
    """Training rows and held-out rows.

    Raises:
        TrainerError: DataEmpty if the fraction leaves nothing to train on.
    """
    wanted = given.data.evaluation
    if not wanted or not wanted.fraction:
        return train, evaluation
    count = max(1, round(wanted.fraction * len(train)))
    if count >= len(train):
        message = (
            f"`data.evaluation.fraction` {wanted.fraction} of {len(train)} rows leaves none to "
            "train on"
        )
        raise TrainerError(Reason.DATA_EMPTY, message, "Give more rows, or no evaluation.")
    chosen = set(random.Random(given.seed).sample(range(len(train)), count))  # noqa: S311
    kept = [index for index in range(len(train)) if index not in chosen]
    return at(train, kept), at(train, sorted(chosen))
