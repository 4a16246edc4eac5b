"""The arithmetic of the benchmark: spreads, ratios, goals. It imports nothing that trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TypeVar

MEMORY_SHARE = 0.7

Run = TypeVar("Run")
Kind = Literal["speed", "memory", "first step"]


@dataclass(frozen=True)
class Spread:
    """Figures of several runs."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one."""
        return cls(*(round(found(values), 3) for found in (min, median, max)))


@dataclass(frozen=True)
class Goal:
    """What is wanted of ours against one contestant.

    Attributes:
        kind: Of the figure.
        wanted: At least so many times as fast, or at most such a share of its memory or time.
        found: The median over rounds.
        met: Whether it is.
    """

    kind: Kind
    wanted: float
    found: float
    met: bool

    @classmethod
    def speed(cls, wanted: float, found: float) -> "Goal":
        """At least so many times as fast."""
        return cls("speed", wanted, found, found >= wanted)

    @classmethod
    def memory(cls, found: float) -> "Goal":
        """At most this share of the memory."""
        return cls("memory", MEMORY_SHARE, found, found <= MEMORY_SHARE)

    @classmethod
    def first_step(cls, found: float) -> "Goal":
        """No later than the other."""
        return cls("first step", 1.0, found, found <= 1.0)

    def __str__(self) -> str:
        sign = ">=" if self.kind == "speed" else "<="
        return f"{self.kind} {sign} {self.wanted:g}: {'met' if self.met else 'NOT MET'}"


def ratios(mine: Sequence[Run], theirs: Sequence[Run], figure: Callable[[Run], float]) -> Spread:
    """Ours over theirs, run by run in the same round."""
    return Spread.of([figure(a) / figure(b) for a, b in zip(mine, theirs, strict=True)])


def differences(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest difference between two curves: absolute below 1, relative above.

    Losses of policies are near 0 by nature, where a relative difference means nothing.
    """
    pairs = zip(mine, theirs, strict=True)
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)


def missed(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Kind]]:
    """Case, contestant and kind of every goal that is not met, of rows as the result file has them."""
    return [
        (row["case"], row["contestant"], goal["kind"])
        for row in rows
        for goal in row["goals"]
        if not goal["met"]
    ]
