"""Weighted sources: how often the rows of each source stand in one pass over the data.

Used by `data.finish`. Weights are relative: the source of the least weight gives each row once, one of
twice that weight gives each row twice, one of 1.5 times gives all rows and half of them again, drawn
by the seed.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.data.given import Given
from finetune_trainer.data.mapped import at
from finetune_trainer.data.rows import DataRow
from finetune_trainer.errors import TrainerError

R = TypeVar("R", bound=DataRow)

MAX_GROWTH = 100
"""How many times longer than the data one pass over it may get."""


def draw(given: Given, rows: Sequence[R]) -> tuple[Sequence[R], list[Resolved]]:
    """The rows of one pass, and how many each source gave.

    Raises:
        TrainerError: InvalidSpec if the weights would repeat rows beyond reason.
    """
    weights = [source.weight for source in given.data.train]
    if len(set(weights)) == 1:
        return rows, []
    least = min(weights)
    by_source: dict[int, list[int]] = {index: [] for index in range(len(weights))}
    for place, row in enumerate(rows):
        by_source[given.examples.sources[row.origin]].append(place)
    _refuse_growth(by_source, [weight / least for weight in weights], len(rows))
    drawn: list[int] = []
    counts = Counter[int]()
    for index, found in by_source.items():
        chosen = _repeated(found, weights[index] / least, random.Random(given.seed + index))  # noqa: S311
        counts[index] = len(chosen)
        drawn += chosen
    notes = [_note(given, index, counts[index], found) for index, found in by_source.items()]
    return at(rows, drawn), notes


def _repeated(rows: Sequence[int], times: float, chance: random.Random) -> list[int]:
    whole = int(times)
    rest = round((times - whole) * len(rows))
    again = sorted(chance.sample(range(len(rows)), rest))
    return [*rows] * whole + [rows[index] for index in again]


def _refuse_growth(by_source: dict[int, list[int]], times: Sequence[float], total: int) -> None:
    drawn = sum(times[index] * len(found) for index, found in by_source.items())
    if drawn > MAX_GROWTH * total:
        message = (
            f"the weights of `data.train` make {drawn:.0f} rows out of {total} in one pass; "
            f"at most {MAX_GROWTH} times as many are made"
        )
        raise TrainerError(Reason.INVALID_SPEC, message, "Give weights that are closer together.")


def _note(given: Given, index: int, count: int, found: Sequence[int]) -> Resolved:
    source = given.data.train[index]
    return Resolved(
        field=f"data.train[{index}].rows",
        value=str(count),
        why=f"{source.source} has {len(found)} usable rows and the weight {source.weight:g}",
    )
