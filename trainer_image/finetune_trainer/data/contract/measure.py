"""Counting: what the rows of a job are like, in one pass over them. Pure.

Called by `draw_up`. Nothing is judged here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from finetune_trainer.data.contract.view import View

FIRST_EDGE = 16
"""Upper edge of the first bucket of lengths, in tokens; each further one doubles it."""


@dataclass(frozen=True)
class Tokens:
    """The special tokens that the contract looks for.

    Attributes:
        start: The token that begins a sequence; None if the model knows none.
        stops: Tokens that end a turn.
    """

    start: int | None
    stops: frozenset[int]


@dataclass
class Measures:
    """What was counted over training rows, and over held-out rows where it says so.

    Attributes:
        starts: Sequences by the number of start tokens that they begin with.
        double_start: Origins of the rows that begin with two or more.
        answered: Origins of the rows with answers.
        unstopped: Origins of those where an answer does not end with a stop token.
        asked: Origins of the rows whose answers follow a prompt; rows without a prompt may be pieces
            of a text that goes on.
        duplicates: Rows that equal an earlier one of another origin, with the origin of that one.
        leaked: Held-out rows that stand among the training rows, with the origin there.
        classes: How often each class stands in the training rows.
    """

    starts: Counter[int] = field(default_factory=Counter)
    double_start: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    unstopped: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    leaked: list[tuple[str, str]] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)


def measure(train: Iterable[View], held_out: Iterable[View], tokens: Tokens) -> Measures:
    """Count."""
    found = Measures()
    first: dict[bytes, str] = {}
    seen: set[tuple[bytes, str]] = set()
    for view in train:
        found.classes.update(view.classes)
        _count_starts(found, view, tokens)
        _count_ends(found, view, tokens)
        # A row that is drawn several times by its source's weight is no duplicate of itself.
        if (view.digest, view.origin) not in seen and view.digest in first:
            found.duplicates.append((view.origin, first[view.digest]))
        seen.add((view.digest, view.origin))
        first.setdefault(view.digest, view.origin)
    for view in held_out:
        if view.digest in first:
            found.leaked.append((view.origin, first[view.digest]))
    return found


def _count_starts(found: Measures, view: View, tokens: Tokens) -> None:
    for stretches in view.sequences.values():
        ids = (token for stretch in stretches for token in stretch.ids)
        count = _leading(ids, tokens.start)
        found.starts[count] += 1
        if count > 1:
            found.double_start.append(view.origin)
            return


def _leading(ids: Iterator[int], start: int | None) -> int:
    count = 0
    for token in ids:
        if token != start:
            break
        count += 1
    return count


def _count_ends(found: Measures, view: View, tokens: Tokens) -> None:
    if not view.ends:
        return
    found.answered.append(view.origin)
    if view.asked:
        found.asked.add(view.origin)
    if any(end not in tokens.stops for end in view.ends):
        found.unstopped.append(view.origin)


@dataclass(frozen=True)
class Bucket:
    """Rows whose length lies above the edge before and up to this one.

    Attributes:
        up_to: The edge, in tokens.
        rows: How many rows.
    """

    up_to: int
    rows: int


def histogram(lengths: Sequence[int]) -> list[Bucket]:
    """Rows by length, in buckets that double; empty ones between others stay.

    >>> histogram([3, 16, 17, 70])
    [Bucket(up_to=16, rows=2), Bucket(up_to=32, rows=1), Bucket(up_to=64, rows=0), Bucket(up_to=128, rows=1)]
    """
    if not lengths:
        return []
    edges = [0, FIRST_EDGE]
    while edges[-1] < max(lengths):
        edges.append(2 * edges[-1])
    return [
        Bucket(high, sum(low < length <= high for length in lengths))
        for low, high in pairwise(edges)
    ]
