"""Where time and memory of a step of ours go: torch's profiler around the second step of a run of its own.

Kept with the result of each case, so that what limits a row that misses its goal is measured, not guessed.
The profiler slows a step down; shares are what it tells, not seconds.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from finetune_trainer.foreign import Foreign

OPERATORS = 8
_STEP = 2


class Profiling:
    """An observer that profiles one step."""

    def __init__(self) -> None:
        self._profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._step = 0

    def begins(self) -> None:
        """See `measured.Observer`."""
        self._step += 1
        if self._step == _STEP:
            self._profiler.start()

    def ends(self) -> None:
        """See `measured.Observer`."""
        if self._step == _STEP:
            self._profiler.stop()

    def told(self, loss: float, norm: float, tokens: int) -> None:
        """See `measured.Observer`."""

    def write(self, path: Path) -> None:
        """Keep shares of time and MiB that were allocated, by operator."""
        events = list(self._profiler.key_averages())
        path.write_text(json.dumps(summary(events)), "utf-8")


def summary(events: Sequence[Foreign]) -> dict[str, Any]:
    """The operators that take most.

    Args:
        events: Averages of torch's profiler.

    Returns:
        `time`: shares of the step's CPU time in percent, without what an operator calls; `memory`: MiB
        that it allocated and handed on, in one step.
    """
    total = sum(event.self_cpu_time_total for event in events) or 1
    return {
        "time": _top(events, lambda event: 100 * event.self_cpu_time_total / total),
        "memory": _top(events, lambda event: event.self_cpu_memory_usage / 2**20),
    }


def _top(events: Sequence[Foreign], figure: Callable[[Foreign], float]) -> list[dict[str, Any]]:
    found = sorted(events, key=figure, reverse=True)[:OPERATORS]
    return [
        {"operator": event.key, "calls": event.count, "value": round(figure(event), 1)}
        for event in found
        if figure(event) > 0
    ]
