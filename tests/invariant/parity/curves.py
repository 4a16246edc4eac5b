"""Curves of training: what two runs are compared by, and what is kept of ours as an invariant."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "curves"


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        losses: Of every step.
        norms: Norms of the gradient before it was cut, of every step.
    """

    losses: list[float]
    norms: list[float]

    def loss_difference(self, other: "Curve") -> float:
        """The largest difference between two losses of the same step."""
        return largest(self.losses, other.losses)

    def norm_difference(self, other: "Curve") -> float:
        """The largest difference between two norms, of the larger one where that is above 1."""
        pairs = zip(self.norms, other.norms, strict=True)
        return max(abs(one - two) / max(1.0, one, two) for one, two in pairs)


def largest(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference between values at the same place.

    >>> largest([1.0, 2.0], [1.0, 2.5])
    0.5
    """
    return max(abs(first - second) for first, second in zip(one, other, strict=True))


def store(name: str, curve: Curve) -> None:
    """Keep a curve."""
    document = {"losses": curve.losses, "norms": curve.norms}
    _path(name).write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def stored(name: str) -> Curve:
    """The curve that was kept."""
    return Curve(**json.loads(_path(name).read_text("utf-8")))


def _path(name: str) -> Path:
    return FOLDER / f"{name.lower().replace(' ', '-')}.json"
