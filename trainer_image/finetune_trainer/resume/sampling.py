"""The order of the rows as a function of the seed and of the pass over the data, and of nothing else.

Put around the samplers of transformers and TRL by `resume.trainer`. These draw from generators that
have run since the start, so that the order of the third pass could only be had by going through two.
"""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler

from finetune_trainer.foreign import Foreign
from finetune_trainer.resume.randomness import seed_of


class EpochSeeded(Sampler[int]):
    """A sampler whose draws begin anew with each pass.

    Args:
        inner: Decides what is grouped with what; draws from its attribute `generator`.
        seed: Of the run.
        epoch: Tells which pass begins, from 0.
    """

    def __init__(self, inner: Foreign, seed: int, epoch: Callable[[], int]) -> None:
        self._inner, self._seed, self._epoch = inner, seed, epoch

    def __len__(self) -> int:
        """Rows in a pass."""
        return len(self._inner)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the rows."""
        self._inner.generator = torch.Generator().manual_seed(seed_of(self._seed, self._epoch()))
        yield from self._inner
