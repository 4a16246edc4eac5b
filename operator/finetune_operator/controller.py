"""The operator put together: store, queue, workers, and the lists that keep the store true.

Made by `__main__`, started and stopped by `handlers.startup`. It knows nothing of kopf.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import structlog

from finetune_operator.apply import Applier
from finetune_operator.cluster.client import FINETUNE_JOBS, JOBS, PODS, Client, Kind, Listing
from finetune_operator.cluster.errors import ApiError
from finetune_operator.follower import READERS, LogFollower
from finetune_operator.observe.fields import Body
from finetune_operator.observe.jobs import child_job, job_facts
from finetune_operator.observe.pods import pod_facts
from finetune_operator.plan import names
from finetune_operator.queue import KeyedQueue
from finetune_operator.reconcile import Reconciler, utc_now
from finetune_operator.settings import Settings
from finetune_operator.store import Store

START_POLL_SECONDS = 3
T = TypeVar("T")
LOG = structlog.get_logger("finetune_operator")


class Controller:
    """One running operator: everything but the framework."""

    def __init__(self, settings: Settings, client: Client, instance: str) -> None:
        self.queue = KeyedQueue()
        self.store = Store(self.queue.add)
        self._settings = settings
        self._client = client
        interval = settings.status_interval_seconds
        self._follower = LogFollower(self._client, self.store, self.queue, interval)
        applier = Applier(self._client, self.store, settings.installation, instance, utc_now)
        self.reconciler = Reconciler(self._client, self.store, self.queue, self._follower, applier)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Wait for the API, read the children that exist, then start the workers.

        No reconcile runs before the lists are read: on an empty view it would create what exists.
        """
        while not await self._is_ready():  # noqa: ASYNC110 - the API server has no event for it
            await asyncio.sleep(START_POLL_SECONDS)
        for _ in range(self._settings.workers):
            self._spawn(self.reconciler.work())
        for _ in range(READERS):
            self._spawn(self._follower.work())
        self._spawn(self._resync_for_ever())
        LOG.info("started", workers=self._settings.workers, jobs=len(self.store.children.keys()))

    async def stop(self) -> None:
        """Stop the workers where they are; the next operator goes on from there."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()
        LOG.info("stopped")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _is_ready(self) -> bool:
        try:
            for namespace in self._scopes():
                await self._client.list_page(FINETUNE_JOBS, namespace)
            await self._read_children()
        except ApiError as error:
            LOG.warning("waiting for the API server and the definition", error=str(error))
            return False
        return True

    async def _resync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            try:
                await self.resync()
            except ApiError as error:
                LOG.warning("could not read the lists", error=str(error))

    async def resync(self) -> None:
        """Read everything again: mends what a watch has missed, and tries failed jobs again."""
        await self._read_children()
        jobs = await self._list(FINETUNE_JOBS, job_facts)
        self.store.jobs.sync(jobs.items, jobs.version)
        for key in self.store.jobs.keys():  # noqa: SIM118 - no mapping
            job = self.store.job(key)
            if job is not None and not job.ended:
                self.queue.add(key)

    async def _read_children(self) -> None:
        children = await self._list(JOBS, child_job, names.SELECTOR)
        self.store.children.sync(children.items, children.version)
        pods = await self._list(PODS, pod_facts, names.SELECTOR)
        self.store.pods.sync(pods.items, pods.version)

    async def _list(
        self, kind: Kind, read: Callable[[Body], T | None], selector: str | None = None
    ) -> Listing[T]:
        listings = [
            await self._client.list_all(kind, read, namespace, selector)
            for namespace in self._scopes()
        ]
        found = tuple(item for listing in listings for item in listing.items)
        # The oldest of the versions: what is newer than it may be missing from its list.
        return Listing(found, min(listing.version for listing in listings))

    def _scopes(self) -> Iterable[str | None]:
        return self._settings.namespace_names or (None,)
