"""API objects as a cluster would hold them: FineTuneJobs, their Jobs, their pods. For operator tests."""

from dataclasses import replace
from typing import Any

from finetune_api.records import Report
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import OutputStatus, Plan, Resolved
from finetune_operator.observe.facts import ChildJob, Facts, JobFacts, Pod
from finetune_operator.observe.jobs import child_job, job_facts
from finetune_operator.observe.pods import pod_facts
from finetune_operator.store import Store
from support.jobs import manifest

Object = dict[str, Any]
UID = "11111111-2222-3333-4444-555555555555"
JOB_UID = "66666666-7777-8888-9999-000000000000"
PREFLIGHT_UID = "77777777-8888-9999-0000-111111111111"
CREATED = "2026-01-01T00:00:00Z"
FINISHED = "2026-01-01T01:00:00Z"
OUTPUT = OutputStatus(
    uri="s3://models/tuned", manifest="s3://models/tuned/manifest.json", manifest_digest="d",
    size_bytes=1,
)  # fmt: skip
CHECKED = Report(
    outcome="Complete", reason=Reason.PREFLIGHT_PASSED, message="12 rows are good",
    plan=Plan(rows=12), resolved=[Resolved(field="data.format", value="Text", why="a column")],
)  # fmt: skip
PUBLISHED = Report(
    outcome="Complete", reason=Reason.OUTPUT_PUBLISHED, message="published", output=OUTPUT
)


def finetune_job(
    changes: Object | None = None, status: Object | None = None, **metadata: Any
) -> Object:
    body = manifest("demo", changes)
    meta = {"uid": UID, "generation": 1, "resourceVersion": "10", "creationTimestamp": CREATED}
    body["metadata"] |= meta | metadata
    return body | ({"status": status} if status is not None else {})


def batch_job(condition: tuple[str, str] | None = None, **metadata: Any) -> Object:
    """The Job of attempt 1; `condition` is type and reason of one that is True."""
    owner = {"kind": "FineTuneJob", "name": "demo", "uid": UID, "controller": True}
    meta = {
        "name": "demo-1", "namespace": "default", "uid": JOB_UID, "resourceVersion": "20",
        "creationTimestamp": CREATED, "labels": {"finetune.dev/job": "demo"},
        "ownerReferences": [owner],
    }  # fmt: skip
    conditions = [
        {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": FINISHED}
        for kind, reason in ([condition] if condition else [])
    ]
    return {"metadata": meta | metadata, "status": {"conditions": conditions}}


def trainer_pod(state: Object | None = None, *, index: int = 0, **fields: Any) -> Object:
    """A pod; `state` is its container's, `fields` are of its status, or `metadata`."""
    meta = {
        "name": f"demo-1-{index}-abcde", "namespace": "default", "uid": f"pod-{index}",
        "resourceVersion": "30", "creationTimestamp": CREATED,
        "labels": {
            "finetune.dev/job": "demo", "batch.kubernetes.io/job-completion-index": str(index),
        },
        "ownerReferences": [{"kind": "Job", "name": "demo-1", "uid": JOB_UID, "controller": True}],
    }  # fmt: skip
    meta |= fields.pop("metadata", {})
    containers = [{"name": "trainer", "state": state}] if state else []
    phase = _phase(state or {})
    status = {"phase": phase, "containerStatuses": containers} | fields
    return {"metadata": meta, "spec": {"nodeName": "node-0"}, "status": status}


def _phase(state: Object) -> str:
    if "running" in state:
        return "Running"
    if "terminated" in state:
        return "Failed" if state["terminated"]["exitCode"] else "Succeeded"
    return "Pending"


RUNNING: Object = {"running": {"startedAt": CREATED}}


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def terminated(code: int, message: str = "", reason: str = "Error") -> Object:
    ended = {"exitCode": code, "reason": reason, "message": message, "finishedAt": FINISHED}
    return {"terminated": ended}


def failed_report(reason: Reason, message: str = "m", hint: str | None = "h") -> Object:
    report = Report(outcome="Failed", reason=reason, message=message, hint=hint)
    return terminated(int(report.exit_code), report.to_message())


def job(changes: Object | None = None, status: Object | None = None, **metadata: Any) -> JobFacts:
    return job_facts(finetune_job(changes, status, **metadata))


def preflight(condition: tuple[str, str] | None = None, **metadata: Any) -> ChildJob:
    """The Job that checks the input of attempt 1."""
    return child(condition, **{"name": "demo-1-preflight", "uid": PREFLIGHT_UID, **metadata})


def preflight_pod(state: Object | None = None, **fields: Any) -> Pod:
    owner = {"kind": "Job", "name": "demo-1-preflight", "uid": PREFLIGHT_UID, "controller": True}
    meta = {
        "name": "demo-1-preflight-abcde", "uid": "preflight-pod", "ownerReferences": [owner],
        "labels": {"finetune.dev/job": "demo"},
    } | fields.pop("metadata", {})  # fmt: skip
    return pod(state, metadata=meta, **fields)


def child(condition: tuple[str, str] | None = None, **metadata: Any) -> ChildJob:
    found = child_job(batch_job(condition, **metadata))
    assert found is not None
    return found


def pod(state: Object | None = None, **fields: Any) -> Pod:
    found = pod_facts(trainer_pod(state, **fields))
    assert found is not None
    return found


def seen_again(facts: Facts, job: JobFacts) -> Facts:
    """The same children and pods beside a job whose status has changed, as the store then has them."""
    store = Store()
    store.jobs.put(job)
    for each in (facts.child, facts.preflight, *facts.older):
        if each is not None:
            store.children.put(each)
    for pod in (*facts.pods, *facts.preflight_pods, *facts.older_pods):
        store.pods.put(pod)
    found = store.facts(job.key)
    assert found is not None
    return replace(found, tail=facts.tail, obstacle=facts.obstacle, sources=facts.sources)
