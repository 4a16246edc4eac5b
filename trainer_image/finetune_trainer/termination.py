"""What SIGTERM and SIGINT do: end the run at once, wherever it is.

`__main__` calls `install`; `publish` calls `ignore` before the one write that must not be torn from
its report. The handler raises in the main thread, so it works during imports and downloads too.
"""

import signal
from types import FrameType

from finetune_trainer.errors import StopRequestedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def install() -> None:
    """Make SIGTERM and SIGINT raise `StopRequestedError` in the main thread, once."""
    for number in _SIGNALS:
        signal.signal(number, _stop)


def ignore() -> None:
    """Hold out to the end: what is being published must be reported as published."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, _frame: FrameType | None) -> None:
    ignore()
    raise StopRequestedError(signal.Signals(number).name)
