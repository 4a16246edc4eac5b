"""How long steps and saves take, and what follows: when to save, and whether a stop can wait.

Used by `checkpointing`. Pure but for the clock.
"""

import time
from collections import deque
from collections.abc import Callable
from math import ceil
from statistics import median

PROBE_STEPS, PROBE_SECONDS = 5, 30.0
"""So many steps and seconds after its start, a run is saved for the first time, and the save measured."""
INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 300.0, 1800.0
"""Work that a kill may cost, and the most where a save is dear."""
SHARE = 0.01
"""Of the time that training may wait for saves."""
MARGIN_SECONDS = 2.0
"""Of the grace period, for the report and the end of the process."""


class Pace:
    """Measures one run.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: deque[float] = deque(maxlen=9)
        self._waits: deque[float] = deque(maxlen=5)
        self._began = self._last = clock()
        self._done = 0

    @property
    def step_seconds(self) -> float | None:
        """What a step takes; None before the second, because the first one warms up."""
        return median(self._steps) if self._steps else None

    @property
    def wait_seconds(self) -> float | None:
        """How long training waits for a save; None before the first."""
        return max(self._waits) if self._waits else None

    @property
    def probing(self) -> bool:
        """Whether it is time for the first save of a run that measures what saves cost."""
        long = self._clock() - self._began >= PROBE_SECONDS
        return self._done >= PROBE_STEPS and long and not self._waits

    def step_done(self) -> None:
        """A step is over."""
        now = self._clock()
        if self._done:
            self._steps.append(now - self._last)
        self._last, self._done = now, self._done + 1

    def saved(self, seconds: float) -> None:
        """A save held training up for so long."""
        self._waits.append(seconds)
        # It was no part of the next step.
        self._last = self._clock()

    def interval(self) -> float:
        """Seconds between saves that keep the share of waiting small.

        >>> pace = Pace(); pace.saved(4.0); pace.interval()
        400.0
        """
        dear = (self.wait_seconds or 0.0) / SHARE
        return min(max(INTERVAL_SECONDS, dear), MAX_INTERVAL_SECONDS)

    def steps_between(self) -> int:
        """The same in steps."""
        return max(1, ceil(self.interval() / max(self.step_seconds or 1.0, 1e-6)))

    def allowance(self, grace: float, publish_seconds: float | None) -> float:
        """How long the present step may still take if it is to be saved within a grace period.

        Args:
            grace: Seconds from the signal to the kill.
            publish_seconds: Of the last checkpoint, from its step to its manifest; None before one.

        Returns:
            Seconds; none if the step or the save will not fit, or if nothing is known of steps.
        """
        if self.step_seconds is None:
            return 0.0
        save = max(publish_seconds or 0.0, self.wait_seconds or 0.0)
        room = grace - MARGIN_SECONDS - (save or grace / 2)
        left = self.step_seconds - (self._clock() - self._last)
        return room if room > 0 and left <= room else 0.0
