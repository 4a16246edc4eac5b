"""The one function that makes the cluster match: observe, decide, apply.

Its workers take keys from the queue. It keeps nothing that matters: whenever it is killed, the next
one finds in the cluster what was done. Events are written before the status that they belong to,
and Jobs before the status that counts them, so that a kill in between loses neither.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from finetune_operator.apply import Applier
from finetune_operator.cluster import events
from finetune_operator.cluster.client import JOBS, PODS, Client
from finetune_operator.cluster.errors import ApiError, NotFoundError
from finetune_operator.follower import LogFollower
from finetune_operator.observe.facts import Facts, Key, Role
from finetune_operator.observe.failures import culprit
from finetune_operator.observe.jobs import labelled_child
from finetune_operator.observe.pods import pod_facts
from finetune_operator.observe.text import one_line
from finetune_operator.plan import names
from finetune_operator.plan.decide import decide, stage
from finetune_operator.plan.decision import Decision, Subject
from finetune_operator.plan.pending import ASK_SECONDS
from finetune_operator.queue import KeyedQueue
from finetune_operator.store import Store

MAX_PASSES = 8
# After the deletion of a job: by then it is gone, or was changed just before.
AGAIN_SECONDS = 5.0
FAILURES_BEFORE_TELLING = 3
LOG = structlog.get_logger("finetune_operator")


def utc_now() -> datetime:
    """The time, to the second: the API's times have no fractions."""
    return datetime.now(UTC).replace(microsecond=0)


class Reconciler:
    """Works on keys until the cluster matches."""

    def __init__(
        self,
        client: Client,
        store: Store,
        queue: KeyedQueue,
        follower: LogFollower,
        applier: Applier,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = client
        self._store = store
        self._queue = queue
        self._follower = follower
        self._applier = applier
        self._clock = clock
        self._asked: dict[Key, float] = {}

    async def work(self) -> None:
        """One worker, for ever."""
        while True:
            key = await self._queue.get()
            try:
                await self._work_on(key)
            except Exception:
                # One job's trouble must not stop the others.
                count = self._queue.failed(key)
                log = LOG.bind(job=key.name, namespace=key.namespace, failures=count)
                log.exception("reconciling failed and will be tried again")
            finally:
                self._queue.done(key)

    async def _work_on(self, key: Key) -> None:
        try:
            await self.reconcile(key)
            self._queue.succeeded(key)
        except ApiError as error:
            count = self._queue.failed(key)
            log = LOG.bind(job=key.name, namespace=key.namespace, failures=count)
            log.warning("a request failed and will be tried again", error=str(error))
            if count >= FAILURES_BEFORE_TELLING:
                await self._tell_obstacle(key, one_line(error.message or error.reason))

    async def reconcile(self, key: Key) -> None:
        """Bring one job as far as it can go now.

        Raises:
            ApiError: The API server refused, or could not be reached.
        """
        confirmed = False
        for _ in range(MAX_PASSES):
            facts = self._store.facts(key, confirmed=confirmed)
            if facts is None or facts.job.ended or facts.job.deleting:
                self._stop(key, ended=facts is not None and facts.job.ended)
                await self._outlive(facts)
                return
            decision = decide(facts, self._clock())
            if decision.confirm:
                confirmed = await self._confirm(facts)
            elif decision.stop:
                await self._applier.stop(facts.job, decision.stop)
            elif decision.create:
                await self._applier.create(facts.job, decision.create)
            elif await self._carry_out(facts, decision):
                return
        raise RuntimeError(f"no end after {MAX_PASSES} passes")

    async def _outlive(self, facts: Facts | None) -> None:
        """Remove a job that has ended when its time to stay is over."""
        decision = decide(facts, self._clock()) if facts else Decision()
        if facts and decision.remove:
            await self._applier.remove(facts.job)
            self._queue.add(facts.job.key, AGAIN_SECONDS)
        elif facts and decision.wake_after is not None:
            self._queue.add(facts.job.key, decision.wake_after)

    async def _carry_out(self, facts: Facts, decision: Decision) -> bool:
        """Events, then the status; False if the job must be looked at anew."""
        key = facts.job.key
        if decision.ask and await self._learns(facts, decision.ask):
            return False
        for notice in decision.notices:
            await self._applier.tell(facts.job, notice)
        if decision.status and not await self._applier.write_status(facts.job, decision.status):
            return False
        job = self._store.job(key)
        if job is None or job.ended:
            return False
        if decision.follow:
            self._follower.follow(key, decision.follow)
        if decision.wake_after is not None:
            self._queue.add(key, decision.wake_after)
        return True

    async def _confirm(self, facts: Facts) -> bool:
        """Read from the API server what the verdict rests on, and the last words of a log."""
        key = facts.job.key
        if not await self._applier.read_job(key):
            return False
        for name in facts.job.awaits:
            await self._applier.read_job(Key(key.namespace, name))
        wanted = {names.child_name(facts.job, role) for role in Role}
        for name in sorted(wanted | {each.name for each in facts.older}):
            await self._read_child(key, name)
        selector = f"{names.SELECTOR}={key.name}"
        pods = await self._client.list_all(PODS, pod_facts, key.namespace, selector)
        self._store.pods.sync(pods.items, pods.version, within=[key])
        await self._read_last_words(key)
        return True

    async def _read_child(self, key: Key, name: str) -> None:
        try:
            found = await self._client.get(JOBS, key.namespace, name)
            self._store.children.put(labelled_child(found, key))
        except NotFoundError:
            self._store.children.drop(key, name)

    async def _read_last_words(self, key: Key) -> None:
        facts = self._store.facts(key)
        pods = facts.at(stage(facts)).pods if facts else ()
        pod = culprit(pods) or next((pod for pod in pods if pod.index == 0), None)
        if pod is not None and (pod.running or pod.ended is not None):
            await self._follower.read_now(key, pod)

    async def _learns(self, facts: Facts, subject: Subject) -> bool:
        """Look up what others say about an object that does not go on; True if it is news."""
        key, now = facts.job.key, asyncio.get_running_loop().time()
        if now - self._asked.get(key, -ASK_SECONDS) < ASK_SECONDS:
            return False
        self._asked[key] = now
        try:
            said = events.explanation(await self._client.warnings(key.namespace, subject.uid))
        except ApiError as error:
            # An explanation is worth no retry: the job goes on without it.
            LOG.warning("could not read events", job=key.name, error=str(error))
            return False
        self._store.learn_obstacle(key, said)
        return said != facts.obstacle

    async def _tell_obstacle(self, key: Key, obstacle: str) -> None:
        """Show in the status why a Job cannot be created, if at least that can be written."""
        facts = self._store.facts(key)
        if facts is None or facts.child is not None:
            return
        self._store.learn_obstacle(key, obstacle)
        decision = decide(replace(facts, obstacle=obstacle), self._clock())
        if decision.create is None or decision.status is None:
            return
        try:
            await self._applier.write_status(facts.job, decision.status)
        except ApiError as error:
            LOG.warning("could not write a status", job=key.name, error=str(error))

    def _stop(self, key: Key, *, ended: bool) -> None:
        # The children of a job that is not known yet stay: at a start they are read first.
        if ended:
            self._store.settle(key)
        self._follower.forget(key)
        self._applier.forget(key)
        self._queue.forget(key)
        self._asked.pop(key, None)
