"""One optimiser step seen as a whole, so that its loss does not depend on how it was split.

Mixed into the trainers of this folder. TRL takes a mean over each forward pass, and transformers the
mean of these. That is the mean over the step only where all passes hold the same number of rows and of
tokens; they do not at the end of an epoch, nor for answers of different length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer import processes
from finetune_trainer.batches import Batch
from finetune_trainer.foreign import Foreign
from finetune_trainer.spreading import Void


@dataclass(frozen=True)
class Size:
    """What means are taken over.

    Attributes:
        rows: Rows of the data: pairs, or judged answers.
        tokens: Tokens of the likelihood term, if the loss has one.
    """

    rows: int
    tokens: int = 0


@dataclass(frozen=True)
class Share:
    """By what means over one pass are multiplied, so that the mean over passes is that over the step.

    Attributes:
        rows: For means over rows.
        tokens: For means over tokens.
    """

    rows: float
    tokens: float


def share(part: Size, step: Sequence[Size]) -> Share:
    """The share of one pass in a step of several passes.

    >>> step = [Size(4, 10), Size(1, 30)]
    >>> share(step[0], step)
    Share(rows=1.6, tokens=0.5)
    """
    rows, tokens = sum(each.rows for each in step), sum(each.tokens for each in step)
    return Share(len(step) * part.rows / rows, len(step) * part.tokens / max(1, tokens))


class WholeStep:
    """Mixin for a trainer of transformers: knows the whole step while it works on one pass."""

    _passes: Sequence[Size] = ()

    def size(self, batch: Batch) -> Size:
        """What means are taken over in one forward pass."""
        raise NotImplementedError

    def share(self, batch: Batch) -> Share:
        """The share of a pass of the present step, of all processes."""
        return share(self._counted(batch), self._passes)

    def _counted(self, batch: Batch) -> Size:
        return Size(0) if isinstance(batch, Void) else self.size(batch)

    def get_batch_samples(
        self, epoch_iterator: Foreign, num_batches: int, device: Foreign
    ) -> tuple[list[Batch], Foreign]:
        """All passes of the next step; transformers calls it once a step."""
        batches, items = super().get_batch_samples(  # type: ignore[misc]
            epoch_iterator, num_batches, device
        )
        own = [self._counted(batch) for batch in batches]
        self._passes = [size for each in processes.gather_objects(own) for size in each]
        return batches, items
