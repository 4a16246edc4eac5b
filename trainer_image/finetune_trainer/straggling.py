"""Tells which process the others wait for at every step, if one is much slower than they are.

Installed by `recipes.session` where several processes train. The wall time of a step is the same on all of
them, because each waits for the gradients of the others; so what is timed is what a process does alone:
the model's forward passes in training. Of these nothing but a sum is kept, which is compared every so
many steps. It stops nothing and mends nothing. With FSDP and ZeRO-3 a forward pass waits for parts of
tensors too, so that a slow process shows there in all of them, and is not told.
"""

import logging
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import TrainerCallback

from finetune_trainer import processes
from finetune_trainer.foreign import Foreign

logger = logging.getLogger(__name__)

EVERY_STEPS = 20
"""Steps that are summed before processes are compared."""
SHARE = 0.2
"""Of the time of a step, that the others lose by waiting, before it is told."""
_MICRO = 1_000_000


@dataclass(frozen=True)
class Straggler:
    """The slowest process of some steps.

    Attributes:
        rank: Which one.
        seconds: That its forward passes took in a step.
        others: The median of those of the others.
    """

    rank: int
    seconds: float
    others: float


def slowest(seconds: list[float], step: float) -> Straggler | None:
    """The process that holds up the others, if its lead of work is a good part of a step.

    Args:
        seconds: Of the forward passes of a step, by rank.
        step: Of a whole step.

    >>> slowest([1.0, 1.1, 3.0], 8.0)
    Straggler(rank=2, seconds=3.0, others=1.05)
    >>> slowest([1.0, 1.1, 3.0], 80.0)
    """
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    others = statistics.median([*seconds[:rank], *seconds[rank + 1 :]])
    if seconds[rank] - others < SHARE * step:
        return None
    return Straggler(rank, seconds[rank], others)


def install(trainer: Foreign, device: str, tell: Callable[[str | None], None]) -> None:
    """Compare the processes while a trainer trains.

    Args:
        trainer: With `model` and `add_callback`.
        device: `cuda` or `cpu`.
        tell: Given a sentence when one is slow, and None when that is over; on every process.
    """
    if processes.world_size() > 1:
        trainer.add_callback(_Comparison(_Stopwatch(trainer.model, device), tell))


class _Stopwatch:
    """Sums the time of a module's forward passes in training."""

    def __init__(self, module: nn.Module, device: str) -> None:
        self._cuda = device == "cuda"
        self._marks: list[Foreign] = []
        module.register_forward_pre_hook(self._mark)
        module.register_forward_hook(self._mark, always_call=True)

    def take(self) -> float:
        """Seconds since the last call."""
        if self._cuda and self._marks:
            self._marks[-1].synchronize()
        pairs = zip(self._marks[::2], self._marks[1::2], strict=False)
        taken = sum(a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in pairs)
        self._marks.clear()
        return float(taken)

    def _mark(self, module: nn.Module, *_: object) -> None:
        if not module.training:
            return
        if not self._cuda:
            self._marks.append(time.monotonic())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)


class _Comparison(TrainerCallback):
    def __init__(self, stopwatch: _Stopwatch, tell: Callable[[str | None], None]) -> None:
        self._stopwatch, self._tell = stopwatch, tell
        self._steps, self._since = 0, time.monotonic()
        self._told = False

    def on_train_begin(self, *_: object, **__: object) -> None:
        """The clock starts."""
        self._begin_anew()

    def on_step_end(self, *_: object, **__: object) -> None:
        """A step is done."""
        self._steps += 1
        if self._steps < EVERY_STEPS:
            return
        wall = (time.monotonic() - self._since) / self._steps
        own = self._stopwatch.take() / self._steps
        told = processes.gather_counts(round(own * _MICRO), round(wall * _MICRO))
        found = slowest([each[0] / _MICRO for each in told], told[0][1] / _MICRO)
        if found or self._told:
            self._say(found)
        self._begin_anew()

    def _say(self, found: Straggler | None) -> None:
        self._told = found is not None
        if found is None:
            self._tell(None)
            return
        node = processes.gather_objects(platform.node())[found.rank]
        sentence = (
            f"process {found.rank} on {node} is slow: its forward passes take {found.seconds:.3g} s a step, "
            f"those of the others {found.others:.3g} s, and they wait for it"
        )
        logger.warning("%s", sentence)
        self._tell(sentence)

    def _begin_anew(self) -> None:
        self._stopwatch.take()
        self._steps, self._since = 0, time.monotonic()
