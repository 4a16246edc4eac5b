"""Attempts, budgets, suspension and deadlines against a real API server and Job controller.

The trainer is a fake that ends as it is told to; the process node kills, evicts and stops for real.
"""

import asyncio
import json
import signal
import sys
import time
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.observe.facts import Key
from finetune_operator.plan import hang, under_way
from support.fakes import apply, condition, run_until_killed
from support.stack import Stack
from support.tenant import Object, Tenant, conditions, until


def attempts(status: Object) -> list[tuple[int, str, str]]:
    return [(a["number"], a["state"], a.get("reason", "")) for a in status.get("attempts", ())]


def reached(tenant: Tenant, name: str, step: int, attempt: int = 1) -> Object:
    """The status once this attempt has done so many steps."""

    def there() -> Object | None:
        status = tenant.status(name)
        number = max((each["number"] for each in status.get("attempts", ())), default=0)
        done = status.get("progress", {}).get("step", 0)
        return status if number == attempt and done >= step else None

    found: Object = until(there, 60, lambda: json.dumps(tenant.status(name), indent=1))
    return found


def patch(stack: Stack, name: str, spec: Object) -> None:
    stack.cluster.kubectl(
        "patch", "ftj", name, "-n", "team", "--type=merge", "-p", json.dumps({"spec": spec})
    )


def is_gone(tenant: Tenant, name: str) -> bool:
    return name not in [each["metadata"]["name"] for each in tenant.get("ftj")["items"]]


# -- disruption ----------------------------------------------------------------------------------


def test_a_deleted_pod_is_a_free_attempt_that_resumes(stack: Stack, tenant: Tenant) -> None:
    apply(stack, "evicted", "resumes-1.5")
    reached(tenant, "evicted", 1)
    [pod] = tenant.children("pods", "evicted")
    stack.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", "team", "--wait=false")
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


def test_a_deleted_job_is_made_again_under_the_next_number(stack: Stack, tenant: Tenant) -> None:
    apply(stack, "robbed", "resumes-1.5")
    reached(tenant, "robbed", 1)
    stack.cluster.kubectl("delete", "job", "robbed-1", "-n", "team", "--wait=false")
    status = tenant.wait("robbed", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "JobDeleted"), (2, "Succeeded", "OutputPublished")]
    assert [each["metadata"]["name"] for each in tenant.children("jobs", "robbed")] == ["robbed-2"]


# -- budgets -------------------------------------------------------------------------------------


def test_a_failed_store_is_tried_again_within_its_budget(stack: Stack, tenant: Tenant) -> None:
    apply(stack, "unlucky", "unavailable", runPolicy={"retries": {"infrastructure": 1}})
    until(lambda: condition(tenant, "unlucky", "Running")[0] == "RetryWaiting" or None, 60)
    assert tenant.status("unlucky")["state"] == "Retrying"
    assert "attempt 2 begins after" in condition(tenant, "unlucky", "Running")[1]
    status = tenant.wait("unlucky", "Failed", 60)
    assert attempts(status) == [(n, "Failed", "StorageUnavailable") for n in (1, 2)]
    assert status["failure"]["reason"] == "StorageUnavailable"
    assert "runPolicy.retries.infrastructure is 1" in status["failure"]["message"]


def test_a_killed_process_counts_against_the_infrastructure(stack: Stack, tenant: Tenant) -> None:
    apply(stack, "killed", "killed.publishes-0.1")
    status = tenant.wait("killed", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "PodLost"), (2, "Succeeded", "OutputPublished")]
    assert status["retries"]["infrastructure"] == 1


def test_memory_that_runs_out_is_tried_again_with_half_the_micro_batch(
    stack: Stack, tenant: Tenant
) -> None:
    apply(stack, "large", "large-0.1")
    status = tenant.wait("large", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "OutOfMemory"), (2, "Succeeded", "OutputPublished")]
    assert any(each["value"] == "micro-batch / 2" for each in status["resolved"])
    job = tenant.get("job", "large-2")
    annotations: dict[str, Any] = job["spec"]["template"]["metadata"]["annotations"]
    assert json.loads(annotations["finetune.dev/run-file"])["microBatchDivisor"] == 2


# -- suspension ----------------------------------------------------------------------------------


def test_a_running_job_is_suspended_and_goes_on_from_its_checkpoint(
    stack: Stack, tenant: Tenant
) -> None:
    apply(stack, "paused", "resumes-1")
    reached(tenant, "paused", 1)
    patch(stack, "paused", {"suspend": True})
    status = tenant.wait("paused", "Suspended", 60)
    assert status["state"] == "Suspended"
    assert conditions(status)["Running"] == "False"
    assert tenant.children("pods", "paused") == []
    assert tenant.children("jobs", "paused") == []
    assert attempts(status) == [(1, "Stopped", "SuspendedByUser")]
    time.sleep(2)
    assert tenant.children("jobs", "paused") == []
    patch(stack, "paused", {"suspend": False})
    status = tenant.wait("paused", "Complete", 60)
    assert status["attempts"][1]["startStep"] >= 1
    assert conditions(status)["Suspended"] == "False"
    assert "retries" not in status or not any(status["retries"].values())


def test_a_job_that_waits_to_be_tried_again_can_be_suspended(stack: Stack, tenant: Tenant) -> None:
    apply(stack, "waiting", "unavailable.publishes-0.1")
    until(lambda: condition(tenant, "waiting", "Running")[0] == "RetryWaiting" or None, 60)
    patch(stack, "waiting", {"suspend": True})
    tenant.wait("waiting", "Suspended", 60)
    time.sleep(11)
    assert [each["metadata"]["name"] for each in tenant.children("jobs", "waiting")] == [
        "waiting-1"
    ]
    patch(stack, "waiting", {"suspend": False})
    tenant.wait("waiting", "Complete", 60)


def test_an_operator_that_was_down_carries_a_suspension_out(stack: Stack, tenant: Tenant) -> None:
    apply(stack, "unheard", "resumes-9")
    reached(tenant, "unheard", 1)
    stack.kill_operator()
    patch(stack, "unheard", {"suspend": True})
    stack.start_operator()
    tenant.wait("unheard", "Suspended", 60)
    assert tenant.children("pods", "unheard") == []
    tenant.delete("unheard")


# -- deadlines -----------------------------------------------------------------------------------


def test_a_job_that_cannot_start_fails_in_time_and_says_why(stack: Stack, tenant: Tenant) -> None:
    apply(
        stack, "homeless", "publishes",
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


def test_an_ended_job_is_removed_after_its_time(stack: Stack, tenant: Tenant) -> None:
    apply(stack, "kept", "publishes-0.1", runPolicy={"ttlSecondsAfterFinished": 3600})
    apply(stack, "brief", "publishes-0.1", runPolicy={"ttlSecondsAfterFinished": 2})
    tenant.wait("kept", "Complete", 60)
    until(lambda: is_gone(tenant, "brief") or None, 60)
    until(lambda: tenant.children("jobs", "brief") == [] or None, 60)
    assert not is_gone(tenant, "kept")
    # The time may be changed after the end.
    patch(stack, "kept", {"runPolicy": {"ttlSecondsAfterFinished": 0}})
    until(lambda: is_gone(tenant, "kept") or None, 60)


# -- queues --------------------------------------------------------------------------------------


def play_kueue(stack: Stack, job: str, *, admit: bool) -> None:
    """What Kueue does to a Job: it lifts the suspension, or sets it to take the resources back."""
    change = json.dumps({"spec": {"suspend": not admit}})
    stack.cluster.kubectl("patch", "job", job, "-n", "team", "--type=merge", "-p", change)


def test_a_queue_admits_preempts_and_admits_again(stack: Stack, tenant: Tenant) -> None:
    apply(stack, "queued", "resumes-1.5", **{"scheduling.queueName": "team-queue"})
    job = until(lambda: next(iter(tenant.children("jobs", "queued")), None))
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
    until(lambda: condition(tenant, "queued", "Admitted")[0] == "WaitingForQueue" or None)
    assert tenant.status("queued")["state"] == "Queued"
    assert tenant.children("pods", "queued") == []
    play_kueue(stack, "queued-1", admit=True)
    status = reached(tenant, "queued", 1)
    assert conditions(status)["Admitted"] == "True"
    play_kueue(stack, "queued-1", admit=False)
    until(lambda: tenant.status("queued")["state"] == "Queued" or None, 60)
    assert conditions(tenant.status("queued"))["Admitted"] == "False"
    until(lambda: tenant.children("pods", "queued") == [] or None, 60)
    play_kueue(stack, "queued-1", admit=True)
    status = tenant.wait("queued", "Complete", 60)
    # The same Job went on, from its checkpoint.
    assert attempts(status) == [(1, "Succeeded", "OutputPublished")]
    assert status["attempts"][0]["startStep"] >= 1


def test_a_suspended_job_leaves_its_queue_and_joins_it_anew(stack: Stack, tenant: Tenant) -> None:
    apply(stack, "leaves", "publishes-0.1", **{"scheduling.queueName": "team-queue"})
    until(lambda: condition(tenant, "leaves", "Admitted")[0] == "WaitingForQueue" or None)
    patch(stack, "leaves", {"suspend": True})
    tenant.wait("leaves", "Suspended", 60)
    assert tenant.children("jobs", "leaves") == []
    patch(stack, "leaves", {"suspend": False})
    job = until(lambda: next(iter(tenant.children("jobs", "leaves")), None))
    assert job["metadata"]["name"] == "leaves-2"
    assert job["spec"]["suspend"] is True
    play_kueue(stack, "leaves-2", admit=True)
    tenant.wait("leaves", "Complete", 60)


# -- an operator of this process -----------------------------------------------------------------


@pytest.fixture
def as_operator(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """A user, while this process has the operator's rights."""
    assert stack.account is not None
    account = stack.cluster.kubeconfig_for_service_account(*vars(stack.account).values())
    monkeypatch.setenv("KUBECONFIG", str(account))
    return Tenant(stack, "team")


async def test_a_hung_gang_is_killed_and_tried_again(
    stack: Stack, as_operator: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "SHORTEST_TRAINING", 3.0)
    monkeypatch.setattr(hang, "SHORTEST_OTHERWISE", 3.0)
    monkeypatch.setattr(hang, "STEPS", 1)
    apply(stack, "frozen", "hangs.publishes-0.1")
    assert not await run_until_killed(Key("team", "frozen"), sys.maxsize, follow=True)
    status = as_operator.status("frozen")
    assert status["state"] == "Complete"
    assert attempts(status) == [(1, "Failed", "Hang"), (2, "Succeeded", "OutputPublished")]
    assert status["retries"]["infrastructure"] == 1
    assert [each["metadata"]["name"] for each in as_operator.children("jobs", "frozen")] == [
        "frozen-2"
    ]


async def test_a_pod_whose_node_does_not_answer_is_given_up_in_a_stated_time(
    stack: Stack, as_operator: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's agent is frozen, its trainer runs on; the pod object stays as long as that."""
    monkeypatch.setattr(under_way, "LOST_AFTER", timedelta(seconds=3))
    changes = {"runPolicy": {"terminationGracePeriodSeconds": 1}}
    apply(stack, "zombie", "resumes-1.5", **changes)
    operator = asyncio.create_task(
        run_until_killed(Key("team", "zombie"), sys.maxsize, follow=True)
    )
    await asyncio.to_thread(reached, as_operator, "zombie", 1)
    [agent] = [each for each in stack.cluster.processes if each.name.startswith("node")]
    [pod] = as_operator.children("pods", "zombie")
    agent.signal(signal.SIGSTOP)
    try:
        name = pod["metadata"]["name"]
        stack.cluster.kubectl("delete", "pod", name, "-n", "team", "--wait=false")
        lost = lambda: as_operator.status("zombie")["attempts"][0].get("reason")  # noqa: E731
        assert await asyncio.to_thread(until, lost, 30) == "NodeLost"
        # The zombie's pod is still there, and the next attempt does not wait for it.
        second = lambda: "zombie-2" in [  # noqa: E731
            each["metadata"]["name"] for each in as_operator.children("jobs", "zombie")
        ] or None  # fmt: skip
        await asyncio.to_thread(until, second, 30)
        assert name in [each["metadata"]["name"] for each in as_operator.children("pods", "zombie")]
    finally:
        agent.signal(signal.SIGCONT)
    assert not await operator
    status = as_operator.status("zombie")
    assert attempts(status)[1] == (2, "Succeeded", "OutputPublished")
    assert status["retries"].get("infrastructure", 0) == 0


@pytest.mark.parametrize("lives", [*range(1, 11), 0], ids=lambda n: f"after {n}" if n else "always")
async def test_a_kill_after_any_write_changes_nothing(
    stack: Stack, as_operator: Tenant, lives: int
) -> None:
    """As in `test_operator`, with two attempts: nothing is made or counted twice."""
    assert stack.account is not None
    mark, name = stack.cluster.audit.mark(), f"mortal-twice-{lives}"
    apply(stack, name, "preempted.publishes-0.2")
    kills, left = 0, lives or 1
    while await run_until_killed(Key("team", name), left):
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
