"""What one training process measured of itself: losses, tokens, times, memory.

The parent starts each contestant in a fresh process, which writes this as JSON. Both sides are watched by
the same callback of transformers.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.foreign import Foreign

_STATUS = Path("/proc/self/status")


@dataclass
class Measured:
    """One run.

    Attributes:
        losses: Of each step.
        ends: When each step ended, in seconds of the same clock.
        work: CPU seconds of the process, all threads together, up to the end of each step.
        tokens: Real tokens (no padding) up to the end of each step.
        peak: Bytes: the largest resident size of the process in its life.
        first_step: Seconds from the start of a process until its first step was told; 0 if not asked.
    """

    losses: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    peak: int = 0
    first_step: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """By the clock, over all steps but the first, which warms up."""
        return self._tokens / (self.ends[-1] - self.ends[0])

    @property
    def tokens_per_cpu_second(self) -> float:
        """The same by the work that was done: what else runs on the machine hardly touches it."""
        return self._tokens / (self.work[-1] - self.work[0])

    @property
    def _tokens(self) -> int:
        return self.tokens[-1] - self.tokens[0]

    def write(self, path: Path) -> None:
        """Keep it, with the peak of this process."""
        self.peak = peak_memory()
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> "Measured":
        """What `write` wrote."""
        return cls(**json.loads(path.read_text("utf-8")))


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes; unlike rusage, not its parent's."""
    line = next(each for each in _STATUS.read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def watch() -> Measured:
    """Have every trainer of transformers that this process builds tell its steps."""
    from transformers import TrainerCallback
    from transformers import trainer as library

    measured = Measured()

    class Stopwatch(TrainerCallback):
        def on_step_end(self, *_: Foreign, **__: Foreign) -> None:
            measured.ends.append(time.monotonic())
            measured.work.append(time.process_time())

        def on_log(self, *_: Foreign, logs: dict[str, Any] | None = None, **__: Foreign) -> None:
            if logs and "loss" in logs:
                measured.losses.append(float(logs["loss"]))
                measured.tokens.append(int(logs.get("num_tokens", 0)))

    library.DEFAULT_CALLBACKS.append(Stopwatch)
    return measured
