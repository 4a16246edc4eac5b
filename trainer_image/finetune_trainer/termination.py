"""What SIGTERM and SIGINT do: end the run at once, or in training after the step that is being done.

`__main__` calls `install`; `publish` calls `ignore` before the one write that must not be torn from
its report. Elsewhere the handler raises in the main thread, so it works during imports and downloads
too. `resume.checkpointing` defers the first signal, so that what was learnt can be saved.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from finetune_trainer.errors import StopRequestedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
Allowance = Callable[[], float]


@dataclass(frozen=True)
class Request:
    """A signal that came while stops were deferred.

    Attributes:
        name: Of the signal.
        since: `time.monotonic()` when it came.
    """

    name: str
    since: float


@dataclass
class _State:
    allowance: Allowance | None = None
    request: Request | None = None


_state = _State()


def install() -> None:
    """Make SIGTERM and SIGINT raise `StopRequestedError` in the main thread, once."""
    _state.allowance, _state.request = None, None
    for number in _SIGNALS:
        signal.signal(number, _stop)
    signal.signal(signal.SIGALRM, _time_is_up)


def ignore() -> None:
    """Hold out to the end: what is being published must be reported as published."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def requested() -> Request | None:
    """The first signal that came while stops were deferred."""
    return _state.request


def heed() -> None:
    """The step is done and the stop is being seen to: no more time limit for the step."""
    signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def deferred(allowance: Allowance) -> Iterator[None]:
    """Within, a first signal is only noted, and `requested` tells it; a second one raises.

    Args:
        allowance: Asked when it comes: for how many seconds the work may go on before it must ask
            `requested`. Then, or at once if it is none, `StopRequestedError` is raised all the same,
            as it is at the end of the work if nobody has seen to it.
    """
    before, _state.allowance = _state.allowance, allowance
    try:
        yield
    finally:
        _state.allowance = before
        heed()
    if _state.request:
        _raise(_state.request.name)


@contextmanager
def at_once() -> Iterator[None]:
    """Within, signals raise as if nothing were deferred; one that was noted raises now."""
    before, _state.allowance = _state.allowance, None
    try:
        if _state.request:
            _raise(_state.request.name)
        yield
    finally:
        _state.allowance = before


def _stop(number: int, _frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if _state.allowance is None or _state.request:
        _raise(name)
    else:
        _state.request = Request(name, time.monotonic())
        seconds = _state.allowance()
        if seconds <= 0:
            _raise(name)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _time_is_up(_number: int, _frame: FrameType | None) -> None:
    if _state.request:
        _raise(_state.request.name)


def _raise(name: str) -> None:
    ignore()
    raise StopRequestedError(name)
