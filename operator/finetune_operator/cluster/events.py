"""Kubernetes events: few of our own, each written once, and warnings of other components.

The name of an event follows from what it says, so that an operator that was killed after writing
it does not write it again. An event that cannot be written is logged and given up.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from finetune_api.meta import API_VERSION
from finetune_api.v1alpha1.job import NAMES
from finetune_operator.observe.facts import JobFacts
from finetune_operator.observe.fields import block, number, text, time, time_text
from finetune_operator.observe.text import one_line
from finetune_operator.plan.decision import Notice
from finetune_operator.plan.names import FIELD_MANAGER

MAX_NOTE = 1000


def event(job: JobFacts, notice: Notice, now: datetime, instance: str) -> dict[str, Any]:
    """The event object for a notice about a job."""
    identity = f"{job.uid}/{notice.reason}/{notice.attempt}"
    when = time_text(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{job.name}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
            "namespace": job.key.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": NAMES["kind"],
            "namespace": job.key.namespace,
            "name": job.name,
            "uid": job.uid,
            "resourceVersion": str(job.resource_version),
        },
        "type": "Warning" if notice.warning else "Normal",
        "reason": notice.reason.value,
        "message": one_line(notice.message, MAX_NOTE),
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": instance[:128],
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }


def explanation(events: Iterable[Mapping[str, Any]]) -> str | None:
    """The warning that was said most often, the newest of those; None without any."""
    ordered = sorted(events, key=lambda found: (_count(found), _last(found)))
    if not ordered:
        return None
    said = f"{text(ordered[-1], 'reason')}: {text(ordered[-1], 'message')}"
    return one_line(said, MAX_NOTE)


def _count(found: Mapping[str, Any]) -> int:
    return max(number(found.get("count")), number(block(found, "series").get("count")), 1)


def _last(found: Mapping[str, Any]) -> float:
    when = time(found.get("lastTimestamp")) or time(found.get("eventTime"))
    return when.timestamp() if when else 0
