"""Accuracy, precision, recall and F1 from counts. Pure; used by the recipes of the supervised tasks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """How often something was found.

    Attributes:
        hits: Found, and there.
        found: Found at all.
        there: There at all.
    """

    hits: int
    found: int
    there: int

    @property
    def precision(self) -> float:
        """Share of what was found that is there; 0 if nothing was found."""
        return self.hits / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """Share of what is there that was found; 0 if nothing is there."""
        return self.hits / self.there if self.there else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both: 2 · hits / (found + there)."""
        both = self.found + self.there
        return 2 * self.hits / both if both else 0.0


def accuracy(pairs: Sequence[tuple[int, int]]) -> float:
    """Share of pairs (right, said) that are equal; 0 without any."""
    return sum(right == said for right, said in pairs) / len(pairs) if pairs else 0.0


def macro_f1(pairs: Sequence[tuple[int, int]]) -> float:
    """The mean of the F1 of each class, whatever its size.

    Args:
        pairs: What is right and what was said. Classes that are neither do not count.
    """
    there, said = Counter(right for right, _ in pairs), Counter(said for _, said in pairs)
    hits = Counter(right for right, said in pairs if right == said)
    classes = there.keys() | said.keys()
    found = [Counts(hits[each], said[each], there[each]).f1 for each in sorted(classes)]
    return sum(found) / len(found) if found else 0.0
