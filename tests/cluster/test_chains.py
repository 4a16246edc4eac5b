"""Jobs that read each other's output, against a real API server; the trainer is a fake."""

import time
from typing import Any

from support.fakes import FAST, apply, condition
from support.stack import Stack
from support.tenant import Tenant, until


def reads(name: str) -> dict[str, Any]:
    return {"model.source": f"job://{name}"}


def waits(tenant: Tenant, name: str, words: str) -> None:
    """Waits until a job says that it waits, and for what."""

    def said() -> bool | None:
        reason, message = condition(tenant, name, "Accepted")
        return (reason == "WaitingForJob" and words in message) or None

    until(said, 60, lambda: str(tenant.status(name)))


def test_a_job_starts_at_once_when_the_one_it_reads_is_complete(
    stack: Stack, tenant: Tenant
) -> None:
    """The dependent is applied first, so that its source is absent, then there, then Complete."""
    mark = stack.cluster.audit.mark()
    apply(tenant, "second", "publishes-0.1", **reads("first"))
    waits(tenant, "second", "job first (does not exist yet)")
    apply(tenant, "first", "publishes-0.5")
    waits(tenant, "second", "job first (Running)")
    assert tenant.children("jobs", "second") == []
    tenant.wait("first", "Complete", 60)
    ended = time.monotonic()
    until(lambda: tenant.children("jobs", "second") or None)
    # No polling: lists are read every 300 s only. The rest is kubectl's own start.
    assert time.monotonic() - ended < 3
    status = tenant.wait("second", "Complete", 60)
    assert [c["status"] for c in status["conditions"] if c["type"] == "Accepted"] == ["True"]
    [pod] = tenant.children("pods", "second")
    said = tenant.kubectl("logs", pod["metadata"]["name"])
    assert "job://first lies in s3://models/publishes-0.5" in said
    writes = [w for w in stack.operator_writes(mark) if w.name == "second"]
    # Absent, Pending, Starting, Running of the other at most; then the five of a life.
    assert len(writes) <= 9, writes


def test_a_waiting_job_costs_nothing_and_a_restart_neither(stack: Stack, tenant: Tenant) -> None:
    apply(tenant, "patient-a", "publishes", **reads("never"))
    apply(tenant, "endless", "hangs")
    apply(tenant, "patient-b", "publishes", **reads("endless"))
    waits(tenant, "patient-a", "does not exist yet")
    waits(tenant, "patient-b", "job endless (Running)")
    time.sleep(2)
    mark = stack.cluster.audit.mark()
    time.sleep(4)
    assert [w for w in stack.operator_writes(mark) if w.name.startswith("patient")] == []
    stack.kill_operator()
    mark = stack.cluster.audit.mark()
    stack.start_operator(FAST)
    time.sleep(4)
    assert stack.operator_writes(mark) == []
    for name in ("patient-a", "patient-b", "endless"):
        tenant.delete(name)


def test_a_failure_goes_down_the_chain_with_its_reason(tenant: Tenant) -> None:
    apply(tenant, "third", "publishes", **reads("middle"))
    apply(tenant, "middle", "publishes", **reads("broken"))
    apply(tenant, "broken", "refuses-0.1")
    middle = tenant.wait("middle", "Failed", 60)["failure"]
    assert middle["reason"] == "SourceJobFailed"
    assert "job broken failed (DataNotFound): s3://datasets/train.jsonl" in middle["message"]
    third = tenant.wait("third", "Failed", 60)["failure"]
    assert "job middle failed (SourceJobFailed)" in third["message"]
    assert tenant.children("jobs", "third") == tenant.children("jobs", "middle") == []


def test_a_source_that_was_deleted_is_waited_for_and_may_come_again(tenant: Tenant) -> None:
    apply(tenant, "fickle", "hangs")
    apply(tenant, "faithful", "publishes-0.1", **reads("fickle"))
    waits(tenant, "faithful", "job fickle (Running)")
    tenant.delete("fickle")
    waits(tenant, "faithful", "job fickle (does not exist yet)")
    until(lambda: tenant.children("jobs", "fickle") == [] or None, 60)
    apply(tenant, "fickle", "publishes-0.1")
    tenant.wait("faithful", "Complete", 90)


def test_a_circle_is_refused(tenant: Tenant) -> None:
    apply(tenant, "self", "publishes", **reads("self"))
    apply(tenant, "left", "publishes", **reads("right"))
    apply(tenant, "right", "publishes", **reads("left"))
    assert tenant.wait("self", "Failed", 60)["failure"]["reason"] == "SourceJobCycle"
    reasons = {tenant.wait(name, "Failed", 60)["failure"]["reason"] for name in ("left", "right")}
    assert "SourceJobCycle" in reasons
    assert reasons <= {"SourceJobCycle", "SourceJobFailed"}


def test_a_chain_that_ends_while_the_operator_is_down_goes_on_afterwards(
    stack: Stack, tenant: Tenant
) -> None:
    apply(tenant, "early", "publishes-1")
    apply(tenant, "late", "publishes-0.1", **reads("early"))
    tenant.wait("early", "Running", 60)
    stack.kill_operator()
    finished = lambda: tenant.children("jobs", "early")[0]["status"].get("succeeded")  # noqa: E731
    until(finished, 60)
    stack.start_operator(FAST)
    tenant.wait("late", "Complete", 60)
