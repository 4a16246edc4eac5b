"""Attempts, budgets, suspension and deadlines against a real API server and Job controller.

The trainer is a fake that ends as it is told to; the process node kills, evicts and stops for real.
"""

import json
import sys
import time
from typing import Any

import pytest

from finetune_operator.observe.facts import Key
from finetune_operator.plan import hang
from support.fakes import apply, attempts, condition, reached, run_until_killed
from support.stack import Stack
from support.tenant import Object, Tenant, conditions, until


def patch(tenant: Tenant, name: str, spec: Object) -> None:
    tenant.kubectl("patch", "ftj", name, "--type=merge", "-p", json.dumps({"spec": spec}))


def is_gone(tenant: Tenant, name: str) -> bool:
    return name not in [each["metadata"]["name"] for each in tenant.get("ftj")["items"]]


# -- disruption ----------------------------------------------------------------------------------


def test_a_deleted_pod_is_a_free_attempt_that_resumes(tenant: Tenant) -> None:
    apply(tenant, "evicted", "resumes-1.5")
    reached(tenant, "evicted", 1)
    [pod] = tenant.children("pods", "evicted")
    tenant.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    status = tenant.wait("evicted", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "Preempted"), (2, "Succeeded", "OutputPublished")]
    first, second = status["attempts"]
    assert first["exitCode"] == 143
    assert second["startStep"] >= 1
    assert second["checkpoint"] == f"s3://models/resumes-1.5/checkpoints/1-{second['startStep']}"
    assert status["checkpoint"]["step"] == 4
    assert status["retries"]["disruption"] == 1
    assert status["retries"].get("infrastructure", 0) == 0
    assert ("Warning", "Preempted") in tenant.events("evicted")


def test_an_evicted_pod_that_is_deaf_is_killed_after_its_grace_and_costs_no_retry(
    tenant: Tenant,
) -> None:
    """As `kubectl drain` does it; two seconds of grace are short, and none of them is used."""
    apply(tenant, "deaf", "deaf-1.5", runPolicy={"terminationGracePeriodSeconds": 2})
    saved = reached(tenant, "deaf", 1)["progress"]["step"]
    [pod] = tenant.children("pods", "deaf")
    tenant.evict(pod["metadata"]["name"])
    told = time.monotonic()
    until(lambda: attempts(tenant.status("deaf"))[0][1] == "Failed" or None, 30)
    assert time.monotonic() - told < 10
    status = tenant.wait("deaf", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "Preempted"), (2, "Succeeded", "OutputPublished")]
    assert status["attempts"][0]["exitCode"] == 137
    assert status["attempts"][1]["startStep"] >= saved
    assert (status["retries"]["disruption"], status["retries"].get("infrastructure", 0)) == (1, 0)


def test_a_deleted_job_is_made_again_under_the_next_number(tenant: Tenant) -> None:
    apply(tenant, "robbed", "resumes-1.5")
    reached(tenant, "robbed", 1)
    tenant.kubectl("delete", "job", "robbed-1", "--wait=false")
    status = tenant.wait("robbed", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "JobDeleted"), (2, "Succeeded", "OutputPublished")]
    assert [each["metadata"]["name"] for each in tenant.children("jobs", "robbed")] == ["robbed-2"]


# -- budgets -------------------------------------------------------------------------------------


def test_a_failed_store_is_tried_again_within_its_budget(tenant: Tenant) -> None:
    apply(tenant, "unlucky", "unavailable", runPolicy={"retries": {"infrastructure": 1}})
    until(lambda: condition(tenant, "unlucky", "Running")[0] == "RetryWaiting" or None, 60)
    assert tenant.status("unlucky")["state"] == "Retrying"
    assert "attempt 2 begins after" in condition(tenant, "unlucky", "Running")[1]
    status = tenant.wait("unlucky", "Failed", 60)
    assert attempts(status) == [(n, "Failed", "StorageUnavailable") for n in (1, 2)]
    assert status["failure"]["reason"] == "StorageUnavailable"
    assert "runPolicy.retries.infrastructure is 1" in status["failure"]["message"]


def test_a_killed_process_counts_against_the_infrastructure(tenant: Tenant) -> None:
    apply(tenant, "killed", "killed.publishes-0.1")
    status = tenant.wait("killed", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "PodLost"), (2, "Succeeded", "OutputPublished")]
    assert status["retries"]["infrastructure"] == 1


def test_memory_that_runs_out_is_tried_again_with_half_the_micro_batch(tenant: Tenant) -> None:
    apply(tenant, "large", "large-0.1")
    status = tenant.wait("large", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "OutOfMemory"), (2, "Succeeded", "OutputPublished")]
    assert any(each["value"] == "micro-batch / 2" for each in status["resolved"])
    job = tenant.get("job", "large-2")
    annotations: dict[str, Any] = job["spec"]["template"]["metadata"]["annotations"]
    assert json.loads(annotations["finetune.dev/run-file"])["microBatchDivisor"] == 2


# -- suspension ----------------------------------------------------------------------------------


def test_a_running_job_is_suspended_and_goes_on_from_its_checkpoint(tenant: Tenant) -> None:
    apply(tenant, "paused", "resumes-1")
    reached(tenant, "paused", 1)
    patch(tenant, "paused", {"suspend": True})
    status = tenant.wait("paused", "Suspended", 60)
    assert status["state"] == "Suspended"
    assert conditions(status)["Running"] == "False"
    assert tenant.children("pods", "paused") == []
    assert tenant.children("jobs", "paused") == []
    assert attempts(status) == [(1, "Stopped", "SuspendedByUser")]
    time.sleep(2)
    assert tenant.children("jobs", "paused") == []
    patch(tenant, "paused", {"suspend": False})
    status = tenant.wait("paused", "Complete", 60)
    assert status["attempts"][1]["startStep"] >= 1
    assert conditions(status)["Suspended"] == "False"
    assert "retries" not in status or not any(status["retries"].values())


def test_a_job_that_waits_to_be_tried_again_can_be_suspended(tenant: Tenant) -> None:
    apply(tenant, "waiting", "unavailable.publishes-0.1")
    until(lambda: condition(tenant, "waiting", "Running")[0] == "RetryWaiting" or None, 60)
    patch(tenant, "waiting", {"suspend": True})
    tenant.wait("waiting", "Suspended", 60)
    time.sleep(11)
    assert [each["metadata"]["name"] for each in tenant.children("jobs", "waiting")] == [
        "waiting-1"
    ]
    patch(tenant, "waiting", {"suspend": False})
    tenant.wait("waiting", "Complete", 60)


def test_an_operator_that_was_down_carries_a_suspension_out(stack: Stack, tenant: Tenant) -> None:
    apply(tenant, "unheard", "resumes-9")
    reached(tenant, "unheard", 1)
    stack.kill_operator()
    patch(tenant, "unheard", {"suspend": True})
    stack.start_operator()
    tenant.wait("unheard", "Suspended", 60)
    assert tenant.children("pods", "unheard") == []
    tenant.delete("unheard")


# -- deadlines -----------------------------------------------------------------------------------


def test_a_job_that_cannot_start_fails_in_time_and_says_why(tenant: Tenant) -> None:
    apply(
        tenant, "homeless", "publishes",
        **{
            "scheduling.nodeSelector": {"no": "such-node"},
            "runPolicy": {"startupDeadlineSeconds": 5},
        },
    )  # fmt: skip
    status = tenant.wait("homeless", "Failed", 60)
    assert status["failure"]["reason"] == "StartupDeadlineExceeded"
    assert "startupDeadlineSeconds (5 s)" in status["failure"]["message"]
    assert "didn't match" in status["failure"]["message"]
    until(lambda: tenant.children("pods", "homeless") == [] or None, 60)


def test_an_ended_job_is_removed_after_its_time(tenant: Tenant) -> None:
    apply(tenant, "kept", "publishes-0.1", runPolicy={"ttlSecondsAfterFinished": 3600})
    apply(tenant, "brief", "publishes-0.1", runPolicy={"ttlSecondsAfterFinished": 2})
    tenant.wait("kept", "Complete", 60)
    until(lambda: is_gone(tenant, "brief") or None, 60)
    until(lambda: tenant.children("jobs", "brief") == [] or None, 60)
    assert not is_gone(tenant, "kept")
    # The time may be changed after the end.
    patch(tenant, "kept", {"runPolicy": {"ttlSecondsAfterFinished": 0}})
    until(lambda: is_gone(tenant, "kept") or None, 60)


# -- queues --------------------------------------------------------------------------------------


def play_kueue(tenant: Tenant, job: str, *, admit: bool) -> None:
    """What Kueue does to a Job: it lifts the suspension, or sets it to take the resources back."""
    change = json.dumps({"spec": {"suspend": not admit}})
    tenant.kubectl("patch", "job", job, "--type=merge", "-p", change)


def test_a_queue_admits_preempts_and_admits_again(tenant: Tenant) -> None:
    apply(tenant, "queued", "resumes-1.5", **{"scheduling.queueName": "team-queue"})
    job = until(lambda: next(iter(tenant.children("jobs", "queued")), None))
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
    until(lambda: condition(tenant, "queued", "Admitted")[0] == "WaitingForQueue" or None)
    assert tenant.status("queued")["state"] == "Queued"
    assert tenant.children("pods", "queued") == []
    play_kueue(tenant, "queued-1", admit=True)
    status = reached(tenant, "queued", 1)
    assert conditions(status)["Admitted"] == "True"
    play_kueue(tenant, "queued-1", admit=False)
    until(lambda: tenant.status("queued")["state"] == "Queued" or None, 60)
    assert conditions(tenant.status("queued"))["Admitted"] == "False"
    until(lambda: tenant.children("pods", "queued") == [] or None, 60)
    play_kueue(tenant, "queued-1", admit=True)
    status = tenant.wait("queued", "Complete", 60)
    # The same Job went on, from its checkpoint.
    assert attempts(status) == [(1, "Succeeded", "OutputPublished")]
    assert status["attempts"][0]["startStep"] >= 1


def test_a_suspended_job_leaves_its_queue_and_joins_it_anew(tenant: Tenant) -> None:
    apply(tenant, "leaves", "publishes-0.1", **{"scheduling.queueName": "team-queue"})
    until(lambda: condition(tenant, "leaves", "Admitted")[0] == "WaitingForQueue" or None)
    patch(tenant, "leaves", {"suspend": True})
    tenant.wait("leaves", "Suspended", 60)
    assert tenant.children("jobs", "leaves") == []
    patch(tenant, "leaves", {"suspend": False})
    job = until(lambda: next(iter(tenant.children("jobs", "leaves")), None))
    assert job["metadata"]["name"] == "leaves-2"
    assert job["spec"]["suspend"] is True
    play_kueue(tenant, "leaves-2", admit=True)
    tenant.wait("leaves", "Complete", 60)


# -- an operator of this process -----------------------------------------------------------------


async def test_a_hung_gang_is_killed_and_tried_again(
    as_operator: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "SHORTEST_TRAINING", 3.0)
    monkeypatch.setattr(hang, "SHORTEST_OTHERWISE", 3.0)
    monkeypatch.setattr(hang, "STEPS", 1)
    apply(as_operator, "frozen", "hangs.publishes-0.1")
    assert not await run_until_killed(
        Key(as_operator.namespace, "frozen"), sys.maxsize, follow=True
    )
    status = as_operator.status("frozen")
    assert status["state"] == "Complete"
    assert attempts(status) == [(1, "Failed", "Hang"), (2, "Succeeded", "OutputPublished")]
    assert status["retries"]["infrastructure"] == 1
    assert [each["metadata"]["name"] for each in as_operator.children("jobs", "frozen")] == [
        "frozen-2"
    ]


@pytest.mark.parametrize("lives", [*range(1, 11), 0], ids=lambda n: f"after {n}" if n else "always")
async def test_a_kill_after_any_write_changes_nothing(
    stack: Stack, as_operator: Tenant, lives: int
) -> None:
    """As in `test_operator`, with two attempts: nothing is made or counted twice."""
    assert stack.account is not None
    mark, name = stack.cluster.audit.mark(), f"mortal-twice-{lives}"
    apply(as_operator, name, "preempted.publishes-0.2")
    kills, left = 0, lives or 1
    while await run_until_killed(Key(as_operator.namespace, name), left):
        kills += 1
        left = sys.maxsize if lives else 1
    assert kills == 1 if lives else kills >= 9
    status = as_operator.status(name)
    assert status["state"] == "Complete"
    assert attempts(status) == [(1, "Failed", "Preempted"), (2, "Succeeded", "OutputPublished")]
    assert status["retries"]["disruption"] == 1
    told = [("Normal", "JobCreated")] * 2 + [
        ("Normal", "OutputPublished"),
        ("Warning", "Preempted"),
    ]
    assert sorted(as_operator.events(name)) == told
    made = [
        event["objectRef"]["resource"]
        for event in stack.cluster.audit.events(stack.account.user, mark)
        if event["verb"] == "create" and event["responseStatus"]["code"] == 201
    ]
    assert sorted(made) == ["events"] * 4 + ["jobs"] * 2
