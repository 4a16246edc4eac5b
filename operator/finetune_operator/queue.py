"""One queue of keys: each waits at most once, and is worked on by one worker at a time.

Filled by the handlers, by timers and by failures; emptied by the reconciler's workers. A key that
is added while it is worked on comes again afterwards, so that no news is lost.
"""

import asyncio
from collections import deque

from finetune_operator.observe.facts import Key

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 300.0


class KeyedQueue:
    """A de-duplicating queue with delays and a back-off a key. Belongs to one event loop."""

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._news = asyncio.Condition()
        self._wake_ups: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Keys that wait or are worked on, timers left out."""
        return len(self._queued) + len(self._active)

    def add(self, key: Key, delay: float = 0) -> None:
        """Ask for the key to be worked on now, or in `delay` seconds at the latest."""
        if delay > 0:
            self._add_later(key, delay)
        elif key in self._active:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._wake_one()

    async def get(self) -> Key:
        """The next key; it is the caller's until `done`."""
        async with self._news:
            await self._news.wait_for(lambda: bool(self._ready))
            key = self._ready.popleft()
        self._queued.discard(key)
        self._active.add(key)
        return key

    def done(self, key: Key) -> None:
        """Give the key back."""
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def failed(self, key: Key) -> int:
        """Ask for the key again after a back-off; returns how often it has failed in a row."""
        count = self._failures.get(key, 0) + 1
        self._failures[key] = count
        # 2 ** 20 is far beyond the longest back-off and keeps the power small.
        self.add(key, min(FIRST_BACKOFF * 2 ** min(count - 1, 20), LONGEST_BACKOFF))
        return count

    def succeeded(self, key: Key) -> None:
        """Forget former failures."""
        self._failures.pop(key, None)

    def forget(self, key: Key) -> None:
        """Drop the timer and the failures of a key whose object is gone."""
        self._failures.pop(key, None)
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()

    def _add_later(self, key: Key, delay: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + delay:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(delay, self._due, key)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _wake_one(self) -> None:
        task = asyncio.get_running_loop().create_task(self._notify())
        self._wake_ups.add(task)
        task.add_done_callback(self._wake_ups.discard)

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify()
