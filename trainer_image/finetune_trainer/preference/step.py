"""One optimiser step seen as a whole, so that its loss does not depend on how it was split.

Mixed into the trainers of this folder. TRL takes a mean over each forward pass, and transformers the
mean of these. That is the mean over the step only where all passes hold the same number of rows and of
tokens; they do not at the end of an epoch, nor for answers of different length.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune_trainer import processes
from finetune_trainer.batches import Batch
from finetune_trainer.foreign import Foreign, Model
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


class RowFigures:
    """Figures of the rows of a step, on whichever process they were."""

    def __init__(self) -> None:
        self._noted: dict[str, list[torch.Tensor]] = defaultdict(list)

    def note(self, batch: Batch, **figures: torch.Tensor) -> None:
        """Remember figures of shape (rows,); every process must note the same names in a step."""
        for name, values in figures.items():
            self._noted[name].append(values.detach()[: 0 if isinstance(batch, Void) else None])

    def means(self) -> dict[str, float]:
        """The mean of each over all rows since the last call, of all processes; all must call this."""
        rows = {name: torch.cat(values) for name, values in self._noted.items()}
        self._noted.clear()
        sums = [float(each.double().sum()) for each in rows.values()]
        found = processes.total(*sums, *map(len, rows.values()))
        pairs = zip(rows, found[: len(rows)], found[len(rows) :], strict=True)
        return {name: total / count for name, total, count in pairs if count}


class MeansOverRows:
    """Mixin for a trainer of TRL: logs means over the rows of a step in place of those over passes.

    Attributes:
        rows: Takes the figures, by TRL's names.
    """

    rows: RowFigures

    def log(self, logs: dict[str, float], *rest: Foreign) -> None:
        """Log a step."""
        trainer: Foreign = self
        for name, mean in self.rows.means().items():
            trainer._metrics["train"][name] = [mean]
        super().log(logs, *rest)  # type: ignore[misc]


class Recorder:
    """Passes a call on to the model, and keeps what it gave.

    Attributes:
        outputs: Of the last call.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.outputs: Foreign = None

    def __call__(self, **inputs: Foreign) -> Foreign:
        """The model's outputs."""
        self.outputs = self._model(**inputs)
        return self.outputs


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
        numbers = [number for each in own for number in (each.rows, each.tokens)]
        self._passes = [
            Size(*pair)
            for each in processes.gather_counts(*numbers)
            for pair in zip(each[::2], each[1::2], strict=True)
        ]
        return batches, items
