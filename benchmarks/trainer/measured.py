"""What one training process measured of itself: losses, tokens, times, memory.

Each contestant trains in a process of its own, which writes this as JSON. All are watched alike, by a
callback of transformers; our loop of PPO, which is none of transformers', tells the same by itself.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from finetune_trainer.foreign import Foreign

_STATUS = Path("/proc/self/status")


class Observer(Protocol):
    """Told of every step, whoever trains."""

    def begins(self) -> None:
        """A step begins."""

    def ends(self) -> None:
        """Its update is done."""

    def told(self, loss: float, norm: float, tokens: int) -> None:
        """Its figures: loss, norm of the gradient, tokens since training began."""


@dataclass
class Measured:
    """One run.

    Attributes:
        losses: Of each step.
        norms: Of the gradients of each step.
        starts: When each step began, in seconds of one clock.
        stops: When each step ended, by the same clock.
        work: CPU seconds of the process, all threads together, when each step ended.
        work_before: The same when the second step began.
        tokens: Real tokens (no padding) up to the end of each step.
        residents: Bytes: the largest resident size of the process so far, when the first step began,
            when each step ended, and when the process was done.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    work_before: float = 0.0
    tokens: list[int] = field(default_factory=list)
    residents: list[int] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """By the clock, over all steps but the first, which warms up and is checked."""
        return self._counted / (self.stops[-1] - self.starts[1])

    @property
    def tokens_per_cpu_second(self) -> float:
        """The same by the work that was done: what else runs on the machine hardly touches it."""
        return self._counted / (self.work[-1] - self.work_before)

    @property
    def peak(self) -> int:
        """Bytes: the largest resident size of the process in its life."""
        return self.residents[-1]

    @property
    def _counted(self) -> int:
        return self.tokens[-1] - self.tokens[0]

    def begins(self) -> None:
        """See `Observer`."""
        if not self.starts:
            self.residents.append(peak_memory())
        if len(self.starts) == 1:
            self.work_before = time.process_time()
        self.starts.append(time.monotonic())

    def ends(self) -> None:
        """See `Observer`."""
        self.stops.append(time.monotonic())
        self.work.append(time.process_time())
        self.residents.append(peak_memory())

    def told(self, loss: float, norm: float, tokens: int) -> None:
        """See `Observer`."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.tokens.append(tokens)

    def write(self, path: Path) -> None:
        """Keep it, with the peak of this process."""
        self.residents.append(peak_memory())
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> "Measured":
        """What `write` wrote."""
        return cls(**json.loads(path.read_text("utf-8")))


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes; unlike rusage, not its parent's."""
    line = next(each for each in _STATUS.read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def watch(observer: Observer) -> None:
    """Have every trainer that this process builds tell its steps."""
    from transformers import TrainerCallback
    from transformers import trainer as library

    class Telling(TrainerCallback):
        def on_step_begin(self, *_: Foreign, **__: Foreign) -> None:
            observer.begins()

        def on_step_end(self, *_: Foreign, **__: Foreign) -> None:
            observer.ends()

        def on_log(self, *_: Foreign, logs: dict[str, Any] | None = None, **__: Foreign) -> None:
            if logs and "loss" in logs:
                tokens = int(logs.get("num_tokens", 0))
                observer.told(float(logs["loss"]), float(logs["grad_norm"]), tokens)

    library.DEFAULT_CALLBACKS.append(Telling)
    _watch_ppo(observer)


def _watch_ppo(observer: Observer) -> None:
    from finetune_trainer.ppo.training import Training

    step: Callable[..., Any] = Training._step
    told: Callable[..., Any] = Training._told

    def stepping(self: Training, *arguments: Foreign) -> Foreign:
        observer.begins()
        figures = step(self, *arguments)
        observer.ends()
        return figures

    def telling(self: Training, figures: dict[str, float]) -> Foreign:
        loss = figures["policyLoss"] + figures["valueLoss"]
        observer.told(loss, self.policy.gradient_norm, self._tokens)
        return told(self, figures)

    Training._step = stepping  # type: ignore[method-assign]
    Training._told = telling  # type: ignore[method-assign]
