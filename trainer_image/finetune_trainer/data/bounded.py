"""Bounds on a chat template, which is a program of a stranger: how long it runs, how much it writes.

Used by `data.render`. transformers runs templates in jinja's immutable sandbox, which keeps them from
attributes and from long ranges, but not from loops in loops. Rendering happens in the main thread, the
only one that a timer can interrupt.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

MAX_SECONDS = 10.0
MAX_CHARACTERS = 16 * 2**20


class TemplateBoundError(Exception):
    """A template that ran too long or wrote too much."""


@contextmanager
def bounded_time(seconds: float = MAX_SECONDS) -> Iterator[None]:
    """Interrupt what runs inside after a while.

    Raises:
        TemplateBoundError: The time is over.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise TemplateBoundError(f"it ran for more than {seconds:g} seconds")

    handler = signal.signal(signal.SIGALRM, interrupt)
    # Whoever had a timer running gets it back.
    before, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, before, interval)
        signal.signal(signal.SIGALRM, handler)


def bounded_text(text: str) -> str:
    """The text, unless it is too long.

    Raises:
        TemplateBoundError: It is.
    """
    if len(text) > MAX_CHARACTERS:
        raise TemplateBoundError(
            f"it wrote {len(text)} characters; at most {MAX_CHARACTERS} are read"
        )
    return text
