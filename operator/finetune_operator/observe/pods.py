"""Reads trainer pods from API objects. Called for every watch event and every read."""

from datetime import datetime

from finetune_operator.observe.facts import Ended, Key, Pod
from finetune_operator.observe.fields import Body, block, items, number, raw_text, text, time
from finetune_operator.observe.jobs import JOB_LABEL, controlling_owner

INDEX = "batch.kubernetes.io/job-completion-index"
TRAINER = "trainer"
# The kubelet cuts termination messages at 4096 bytes; whoever writes more is not the kubelet.
MAX_TERMINATION_MESSAGE = 4096


def pod_facts(body: Body) -> Pod | None:
    """A pod that carries our label and belongs to a Job; None for any other."""
    metadata, spec, status = (block(body, name) for name in ("metadata", "spec", "status"))
    labels, owner = block(metadata, "labels"), controlling_owner(metadata)
    name = text(labels, JOB_LABEL)
    if not name or owner is None or owner.kind != "Job":
        return None
    state = _trainer_state(status)
    return Pod(
        key=Key(text(metadata, "namespace"), name),
        name=text(metadata, "name"),
        uid=text(metadata, "uid"),
        resource_version=number(metadata.get("resourceVersion")),
        job_uid=owner.uid,
        index=number(labels.get(INDEX, block(metadata, "annotations").get(INDEX))),
        phase=text(status, "phase") or "Pending",
        reason=text(status, "reason"),
        message=text(status, "message"),
        node=text(spec, "nodeName") or None,
        created=time(metadata.get("creationTimestamp")),
        deletion=time(metadata.get("deletionTimestamp")),
        unschedulable=_condition(status, "PodScheduled", "False"),
        scheduled=_since(status, "PodScheduled"),
        waiting=_waiting(state),
        running=isinstance(state.get("running"), dict),
        ended=_ended(state),
        disruption=_condition(status, "DisruptionTarget", "True"),
        job=owner.name,
    )


def _trainer_state(status: Body) -> Body:
    for container in items(status, "containerStatuses"):
        if container.get("name") == TRAINER:
            return block(container, "state")
    return {}


def _waiting(state: Body) -> tuple[str, str] | None:
    waiting = block(state, "waiting")
    return (text(waiting, "reason"), text(waiting, "message")) if waiting else None


def _ended(state: Body) -> Ended | None:
    terminated = block(state, "terminated")
    if not terminated:
        return None
    return Ended(
        exit_code=number(terminated.get("exitCode"), default=-1),
        reason=text(terminated, "reason"),
        message=raw_text(terminated, "message", MAX_TERMINATION_MESSAGE),
        finished=time(terminated.get("finishedAt")),
    )


def _since(status: Body, kind: str) -> datetime | None:
    """Since when a condition is true."""
    for condition in items(status, "conditions"):
        if condition.get("type") == kind and condition.get("status") == "True":
            return time(condition.get("lastTransitionTime"))
    return None


def _condition(status: Body, kind: str, wanted: str) -> str | None:
    for condition in items(status, "conditions"):
        if condition.get("type") == kind and condition.get("status") == wanted:
            return f"{text(condition, 'reason')}: {text(condition, 'message')}".rstrip(": ")
    return None
