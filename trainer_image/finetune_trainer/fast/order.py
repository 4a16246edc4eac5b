"""Rows of like length in one forward pass, without changing which rows a step learns from.

Put around the sampler of SFT where batches are padded. Only the rows of one step trade places, so what a
step learns is what it would have learnt in any order, and no step has the short rows alone.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from torch.utils.data import Sampler

from finetune_trainer.foreign import Foreign


class SortedSteps(Sampler[int]):
    """The rows of each step, the longest first: a pass that needs too much memory fails at once.

    Args:
        inner: Gives the order; a function of seed and pass.
        lengths: Tokens of each row.
        rows: Rows of a step, over all processes.
    """

    def __init__(self, inner: Foreign, lengths: Sequence[int], rows: int) -> None:
        self._inner, self._lengths, self._rows = inner, lengths, rows

    def __len__(self) -> int:
        """Rows in a pass."""
        return len(self._inner)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the rows."""
        rest = iter(self._inner)
        while step := list(islice(rest, self._rows)):
            # Rows of one length stay in their order.
            yield from sorted(step, key=lambda row: -self._lengths[row])
