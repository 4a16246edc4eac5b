"""What became of the rows on their way to the model: which were cut, and which were left out.

Filled in by the preparers while they cut, so that nothing is counted twice; read by the contract.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_trainer.data.rows import DataRow

Cause = Literal["Cut", "Masked", "Identical", "TooLong"]


@dataclass(frozen=True)
class Cut:
    """A row that was longer than the longest length.

    Attributes:
        origin: File and line.
        tokens: How many tokens it lost.
        supervised: How many of them carried loss.
    """

    origin: str
    tokens: int
    supervised: int


@dataclass(frozen=True)
class LeftOut:
    """A row that is not used.

    Attributes:
        origin: File and line.
        cause: Whether cutting took all that it teaches, or it taught nothing before; whether both
            answers are the same; whether it is longer than it may be and must not be cut.
    """

    origin: str
    cause: Cause


@dataclass(frozen=True)
class Treatment:
    """All of it, training and held-out rows together.

    Attributes:
        lengths: Tokens of every row before it was cut.
        cut: Rows that were cut, those among them that were left out for it included.
        left_out: Rows that are not used.
    """

    lengths: tuple[int, ...] = ()
    cut: tuple[Cut, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def __add__(self, other: "Treatment") -> "Treatment":
        """Both together, such as of training and of held-out rows."""
        return Treatment(
            self.lengths + other.lengths, self.cut + other.cut, self.left_out + other.left_out
        )


def treatment(whole: Sequence[DataRow], cut: Sequence[DataRow]) -> Treatment:
    """What cutting did.

    Args:
        whole: The rows as they were.
        cut: The same rows, cut, in the same order.
    """
    lengths, shorter, left_out = [], [], []
    # In one pass, because rows may be made as they are looked at.
    for before, after in zip(whole, cut, strict=True):
        lengths.append(before.length)
        if after.length < before.length:
            lost = before.supervised - after.supervised
            shorter.append(Cut(before.origin, before.length - after.length, lost))
        if not after.supervised:
            left_out.append(LeftOut(before.origin, "Cut" if before.supervised else "Masked"))
    return Treatment(tuple(lengths), tuple(shorter), tuple(left_out))
