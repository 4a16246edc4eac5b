"""Reads the logs of running trainers, each no oftener than the status interval.

Asked by the reconciler; has workers of its own, so that a node that does not answer holds up no
reconcile. After every read the job is put into the queue.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from finetune_operator.cluster.client import Client
from finetune_operator.observe.facts import Key, Pod
from finetune_operator.observe.progress import read_tail
from finetune_operator.queue import KeyedQueue
from finetune_operator.store import Store

READERS = 4
LOG = structlog.get_logger("finetune_operator")


class LogFollower:
    """Polls log tails into the store."""

    def __init__(
        self,
        client: Client,
        store: Store,
        queue: KeyedQueue,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._store = store
        self._queue = queue
        self._interval = interval
        self._clock = clock
        self._due = KeyedQueue()
        self._pods: dict[Key, Pod] = {}
        self._last: dict[Key, float] = {}

    def follow(self, key: Key, pod: Pod) -> None:
        """Read this pod's log when its turn comes."""
        self._pods[key] = pod
        now = asyncio.get_running_loop().time()
        self._due.add(key, max(self._last.get(key, 0) + self._interval - now, 0))

    def forget(self, key: Key) -> None:
        """Stop reading for a job."""
        self._pods.pop(key, None)
        self._last.pop(key, None)
        self._due.forget(key)

    async def read_now(self, key: Key, pod: Pod) -> None:
        """Read a pod's log at once, for a final verdict."""
        log = await self._client.log_tail(key.namespace, pod.name)
        followed = self._pods.get(key, pod)
        # An answer that comes late must not stand for the Job that came after.
        if log is not None and followed.job_uid == pod.job_uid:
            self._store.learn_tail(key, pod, read_tail(log), self._clock())

    async def work(self) -> None:
        """One reader, for ever."""
        while True:
            key = await self._due.get()
            try:
                await self._read(key)
            except Exception:
                LOG.exception("reading a log failed", job=key.name, namespace=key.namespace)
            finally:
                self._due.done(key)

    async def _read(self, key: Key) -> None:
        pod = self._pods.get(key)
        if pod is None:
            return
        self._last[key] = asyncio.get_running_loop().time()
        await self.read_now(key, pod)
        if key in self._pods:
            self._queue.add(key)
