"""What the model was like before training: measured once, by the attempt that began, and carried along.

Made by `recipes.session`. A resumed model is no longer untrained, so what is told and proved about the
difference that training made needs the true start.
"""

from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.resume import tree
from finetune_trainer.sanity import Fingerprints
from finetune_trainer.watch import Measures

_NAME = "start"


@dataclass(frozen=True)
class Seen:
    """What the model was like at one moment.

    Attributes:
        measures: Figures on the held-out rows; None without such rows.
        answers: What it answered to held-out prompts.
    """

    measures: Measures | None
    answers: list[str]


@dataclass(frozen=True)
class Start:
    """The model before the first step.

    Attributes:
        seen: What it was like.
        fingerprints: Of its trainable tensors.
    """

    seen: Seen
    fingerprints: Fingerprints

    def capture(self, folder: Path) -> None:
        """Add it to a checkpoint."""
        measures = None if self.seen.measures is None else dict(self.seen.measures)
        tree.write(folder, _NAME, [measures, self.seen.answers, self.fingerprints])

    @classmethod
    def of(cls, folder: Path) -> "Start":
        """What `capture` added to a checkpoint."""
        measures, answers, fingerprints = tree.read(folder, _NAME)
        return cls(Seen(measures, answers), fingerprints)
