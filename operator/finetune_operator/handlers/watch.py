"""Watch events: each becomes slim facts in the store and a key in the queue, and nothing else.

Registered by `__main__`. An object that cannot be read is logged and passed over.
"""

from collections.abc import Callable

import kopf
import structlog

from finetune_api.meta import GROUP, VERSION
from finetune_api.v1alpha1.job import NAMES
from finetune_operator.controller import Controller
from finetune_operator.observe.facts import Key
from finetune_operator.observe.fields import Body
from finetune_operator.observe.jobs import child_job, job_facts
from finetune_operator.observe.pods import pod_facts
from finetune_operator.plan import names

LOG = structlog.get_logger("finetune_operator")
Event = kopf.RawEvent
Change = Callable[[Controller, bool, Body], None]


def register(registry: kopf.OperatorRegistry, controller: Controller) -> None:
    """Watch FineTuneJobs, and the Jobs and Pods that carry our label."""
    labelled = {names.SELECTOR: kopf.PRESENT}

    @kopf.on.event(GROUP, VERSION, NAMES["plural"], registry=registry)
    async def job_event(event: Event, **_: object) -> None:
        _pass_on(controller, job_changed, event)

    @kopf.on.event("batch", "v1", "jobs", labels=labelled, registry=registry)
    async def child_event(event: Event, **_: object) -> None:
        _pass_on(controller, child_changed, event)

    @kopf.on.event("", "v1", "pods", labels=labelled, registry=registry)
    async def pod_event(event: Event, **_: object) -> None:
        _pass_on(controller, pod_changed, event)


def job_changed(controller: Controller, deleted: bool, body: Body) -> None:
    """A FineTuneJob came, changed or went."""
    job = job_facts(body)
    if deleted:
        controller.store.jobs.delete(job)
        controller.store.settle(job.key)
    elif not controller.store.jobs.put(job):
        # Our own write, whose answer was here first.
        return
    controller.queue.add(job.key)


def child_changed(controller: Controller, deleted: bool, body: Body) -> None:
    """A Job of ours came, changed or went."""
    child = child_job(body)
    if child is None or _is_settled(controller, child.key):
        return
    if deleted:
        controller.store.children.delete(child)
    elif not controller.store.children.put(child):
        return
    controller.queue.add(child.key)


def pod_changed(controller: Controller, deleted: bool, body: Body) -> None:
    """A pod of ours came, changed or went."""
    pod = pod_facts(body)
    if pod is None or _is_settled(controller, pod.key):
        return
    if deleted:
        controller.store.pods.delete(pod)
    elif not controller.store.pods.put(pod):
        return
    controller.queue.add(pod.key)


def _is_settled(controller: Controller, key: Key) -> bool:
    job = controller.store.job(key)
    return job is not None and job.ended


def _pass_on(controller: Controller, change: Change, event: Event) -> None:
    try:
        change(controller, event["type"] == "DELETED", event["object"])
    except Exception:
        name = event["object"].get("metadata", {}).get("name")
        LOG.exception("passed over an object that could not be read", object=name)
