"""Kubernetes events: the same name for the same news, and the best of what others say."""

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.cluster.events import event, explanation
from finetune_operator.plan.decision import Notice
from support.cluster_objects import UID, job

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = Notice(Reason.JOB_CREATED, "created Job demo-1", 1)


def name(notice: Notice = CREATED, now: datetime = NOW, **metadata: str) -> str:
    body = event(job(**metadata), notice, now, "pod-a")
    return str(body["metadata"]["name"])


def test_the_same_news_has_the_same_name_whenever_it_is_told() -> None:
    assert name() == name(now=datetime(2026, 5, 5, tzinfo=UTC), resourceVersion="99")


@pytest.mark.parametrize(
    "other",
    [
        name(Notice(Reason.JOB_CREATED, "created Job demo-2", 2)),
        name(Notice(Reason.POD_LOST, "m", 1)),
        name(uid="another"),
    ],
    ids=["attempt", "reason", "job of the same name"],
)
def test_other_news_have_other_names(other: str) -> None:
    assert other != name()


def test_an_event_is_about_the_job() -> None:
    body = event(job(), Notice(Reason.POD_LOST, "x" * 5000, 1, warning=True), NOW, "i" * 200)
    assert body["involvedObject"]["uid"] == UID
    assert (body["type"], body["reason"]) == ("Warning", "PodLost")
    # The API server refuses longer ones.
    assert len(body["message"]) <= 1024
    assert len(body["reportingInstance"]) <= 128


def said(message: str, count: int, last: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {"reason": "FailedMount", "message": message, "count": count, "lastTimestamp": last}


def test_what_is_said_most_often_explains() -> None:
    found = explanation([said("secret not found", 5), said("timed out", 2), {}])
    assert found == "FailedMount: secret not found"
    newer = said("newer", 5, "2026-01-02T00:00:00Z")
    assert explanation([newer, said("older", 5)]) == "FailedMount: newer"
    assert explanation([]) is None
