"""The writes: a child Job, a status, an event, a deletion. Each may be the last one before a kill.

Called by the reconciler only. Answers go into the store at once, so that the next decision sees
them without waiting for the watch.
"""

from collections.abc import Callable
from datetime import datetime

import structlog

from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.cluster import events
from finetune_operator.cluster.client import EVENTS, FINETUNE_JOBS, JOBS, SERVICES, Client
from finetune_operator.cluster.errors import ApiError, ConflictError, NotFoundError
from finetune_operator.observe.facts import ChildJob, JobFacts, Key, Role
from finetune_operator.observe.jobs import job_facts, labelled_child
from finetune_operator.plan.decision import Creation, Notice
from finetune_operator.plan.installation import Installation
from finetune_operator.plan.service import service
from finetune_operator.plan.status import same
from finetune_operator.plan.workload import workload
from finetune_operator.store import Store


def log_of(job: JobFacts) -> structlog.stdlib.BoundLogger:
    """A logger that names the job in every line."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger("finetune_operator")
    return log.bind(job=job.name, namespace=job.key.namespace, uid=job.uid)


class Applier:
    """Carries out single steps of a decision."""

    def __init__(
        self,
        client: Client,
        store: Store,
        installation: Installation,
        instance: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._store = store
        self._installation = installation
        self._instance = instance
        self._clock = clock
        # What was written last, and what the API server made of it: an older definition in the
        # cluster drops fields that it does not know, and writing them again would never end.
        self._written: dict[Key, tuple[FineTuneJobStatus, FineTuneJobStatus]] = {}

    async def create(self, job: JobFacts, creation: Creation) -> None:
        """Create a Job, or find the one that has its name already."""
        if creation.spec.resources.nodes > 1 and creation.role is Role.TRAINER:
            await self._create_service(job, creation)
        manifest = workload(job, creation, self._installation)
        name = manifest["metadata"]["name"]
        try:
            found = await self._client.create(JOBS, manifest)
            log_of(job).info("created a Job", child=name)
        except ConflictError:
            found = await self._client.get(JOBS, job.key.namespace, name)
        self._store.children.put(labelled_child(found, job.key))
        self._store.learn_obstacle(job.key, None)

    async def _create_service(self, job: JobFacts, creation: Creation) -> None:
        try:
            await self._client.create(SERVICES, service(job, creation.attempt))
        except ConflictError:
            log_of(job).info("found a Service of the name")

    async def stop(self, job: JobFacts, child: ChildJob) -> None:
        """Delete the Job of an attempt that has ended; its pods are told to stop first.

        The Job stays until they are gone, so that a queue keeps what they hold until then.
        """
        namespace = job.key.namespace
        try:
            await self._client.delete(JOBS, namespace, child.name, {"uid": child.uid})
            log_of(job).info("stopped a Job", child=child.name)
            found = await self._client.get(JOBS, namespace, child.name)
        except (NotFoundError, ConflictError):
            self._store.children.drop(job.key, child.name)
        else:
            self._store.children.put(labelled_child(found, job.key))

    async def remove(self, job: JobFacts) -> None:
        """Delete a FineTuneJob that has ended and stayed for its time; its output stays."""
        identity = {"uid": job.uid, "resourceVersion": str(job.resource_version)}
        try:
            await self._client.delete(FINETUNE_JOBS, job.key.namespace, job.key.name, identity)
            log_of(job).info("removed the job: its time to stay is over")
        except (NotFoundError, ConflictError):
            await self.read_job(job.key)

    async def tell(self, job: JobFacts, notice: Notice) -> None:
        """Write an event, once. A job goes on without it."""
        body = events.event(job, notice, self._clock(), self._instance)
        try:
            await self._client.create(EVENTS, body)
        except ConflictError:
            return
        except ApiError as error:
            log_of(job).warning(
                "could not write an event", reason=notice.reason.value, error=str(error)
            )

    async def write_status(self, job: JobFacts, wanted: FineTuneJobStatus) -> bool:
        """Write a status if it differs; False if the job has changed since it was read."""
        written, observed = self._written.get(job.key, (None, None))
        if same(wanted, job.status) or (wanted == written and job.status == observed):
            return True
        identity = {"uid": job.uid, "resourceVersion": str(job.resource_version)}
        try:
            body = await self._client.apply_status(job.key, identity, wanted.to_dict())
        except (ConflictError, NotFoundError):
            await self.read_job(job.key)
            return False
        now = job_facts(body)
        self._store.jobs.put(now)
        self._written[job.key] = (wanted, now.status)
        _log_change(job, wanted)
        return True

    async def read_job(self, key: Key) -> bool:
        """Read the FineTuneJob into the store; False if it is gone."""
        try:
            body = await self._client.get(FINETUNE_JOBS, key.namespace, key.name)
        except NotFoundError:
            self._store.jobs.forget(key)
            return False
        self._store.jobs.put(job_facts(body))
        return True

    def forget(self, key: Key) -> None:
        """Drop what was kept about a job."""
        self._written.pop(key, None)


def _log_change(job: JobFacts, wanted: FineTuneJobStatus) -> None:
    if wanted.state == job.status.state:
        log_of(job).debug("wrote the status", state=wanted.state)
    elif wanted.failure is not None:
        failure = wanted.failure
        log_of(job).info("the job failed", reason=failure.reason, message=failure.message)
    else:
        log_of(job).info("the state changed", state=wanted.state, before=job.status.state)
