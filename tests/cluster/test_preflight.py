"""The preflight against a real API server and Job controller: no GPU is asked for before it has passed."""

import sys
import time
from typing import Any

import pytest

from finetune_operator.observe.facts import Key
from support.fakes import FAST, apply, condition, run_until_killed
from support.stack import Stack
from support.tenant import Tenant, conditions, until

GPU: dict[str, Any] = {"resources.gpusPerNode": 1}


def checks(behaviour: str) -> dict[str, Any]:
    """A job with a GPU whose preflight behaves like this."""
    return GPU | {"data.train": [{"source": f"s3://models/{behaviour}"}]}


def created(stack: Stack, mark: int, resource: str = "jobs") -> list[str]:
    """Names of the objects that the operator created."""
    return [
        write.name for write in stack.operator_writes(mark)
        if (write.verb, write.resource) == ("create", resource)
    ]  # fmt: skip


def jobs(tenant: Tenant, name: str) -> list[str]:
    return sorted(each["metadata"]["name"] for each in tenant.children("jobs", name))


def test_a_life_with_a_preflight_costs_few_writes(stack: Stack, tenant: Tenant) -> None:
    mark = stack.cluster.audit.mark()
    apply(tenant, "checked", "publishes-0.1", **checks("passes-1.5"))
    until(lambda: tenant.status("checked").get("state") == "Preflight" or None)
    assert jobs(tenant, "checked") == ["checked-1-preflight"]
    [pod] = tenant.children("pods", "checked")
    [container] = pod["spec"]["containers"]
    assert "nvidia.com/gpu" not in str(container["resources"])
    status = tenant.wait("checked", "Complete", 60)
    assert conditions(status)["InputChecked"] == "True"
    # Of the preflight's report: the fake trainer's own says something else.
    assert {each["field"] for each in status["resolved"]} == {"training.batchSize"}
    assert [each["job"] for each in status["attempts"]] == ["checked-1"]
    assert jobs(tenant, "checked") == ["checked-1", "checked-1-preflight"]
    by_kind = [write.resource for write in stack.operator_writes(mark)]
    assert by_kind.count("jobs") == 2
    # PreflightPassed, JobCreated, OutputPublished.
    assert by_kind.count("events") == 3
    # Pending, running, at most two of progress, passed; then as without a preflight.
    assert by_kind.count("finetunejobs") <= 10, by_kind


def test_what_the_preflight_found_is_in_the_status_before_a_gpu_is_there(tenant: Tenant) -> None:
    kubectl = tenant.kubectl
    kubectl("create", "quota", "no-gpu", "--hard=requests.nvidia.com/gpu=0")
    try:
        apply(tenant, "stuck", "publishes-0.1", **checks("passes-0.1"))
        found = until(lambda: tenant.status("stuck").get("plan"), 60)
        assert found == {"rows": 12, "longestRow": 9}
        until(lambda: "exceeded quota" in condition(tenant, "stuck", "Running")[1] or None, 60)
    finally:
        kubectl("delete", "quota", "no-gpu")
    tenant.delete("stuck")


@pytest.mark.parametrize(
    ("behaviour", "reason", "words"),
    [
        ("refuses", "DataNotFound", "does not exist"),
        ("crashes", "InternalError", "ZeroDivisionError: a defect"),
        ("silent", "InternalError", "no report"),
    ],
)
def test_a_failed_preflight_fails_the_job_and_no_gpu_job_ever_exists(
    stack: Stack, tenant: Tenant, behaviour: str, reason: str, words: str
) -> None:
    mark, name = stack.cluster.audit.mark(), f"bad-{behaviour}"
    apply(tenant, name, "publishes", **checks(f"{behaviour}-0.1"))
    status = tenant.wait(name, "Failed", 60)
    assert status["failure"]["reason"] == reason
    assert words in status["failure"]["message"]
    assert ("Warning", reason) in tenant.events(name)
    time.sleep(1)
    assert created(stack, mark) == [f"{name}-1-preflight"]
    assert jobs(tenant, name) == [f"{name}-1-preflight"]


def test_a_job_without_gpus_has_one_job(stack: Stack, tenant: Tenant) -> None:
    mark = stack.cluster.audit.mark()
    apply(tenant, "on-cpu", "publishes-0.1")
    assert "InputChecked" not in conditions(tenant.wait("on-cpu", "Complete", 60))
    assert created(stack, mark) == ["on-cpu-1"]


def test_the_longest_name_can_be_checked(tenant: Tenant) -> None:
    name = "n" * 50
    apply(tenant, name, "publishes-0.1", **checks("passes-0.1"))
    tenant.wait(name, "Complete", 60)


def test_a_deadline_and_a_deletion_end_a_preflight(tenant: Tenant) -> None:
    apply(
        tenant, "slow-check", "publishes", runPolicy={"activeDeadlineSeconds": 3}, **checks("hangs")
    )
    apply(tenant, "robbed-check", "publishes", **checks("hangs"))
    until(lambda: tenant.status("robbed-check").get("state") == "Preflight" or None, 60)
    tenant.kubectl("delete", "job", "robbed-check-1-preflight", "--wait=false")
    assert tenant.wait("slow-check", "Failed", 60)["failure"]["reason"] == "DeadlineExceeded"
    # A deadline is final; a deleted preflight is made again after a pause.
    until(lambda: jobs(tenant, "robbed-check") == ["robbed-check-2-preflight"] or None, 60)
    assert tenant.status("robbed-check")["attempts"][0]["reason"] == "JobDeleted"
    tenant.delete("robbed-check")
    assert jobs(tenant, "slow-check") == ["slow-check-1-preflight"]


def test_a_job_deleted_during_its_preflight_leaves_nothing(tenant: Tenant) -> None:
    apply(tenant, "given-up", "publishes", **checks("hangs"))
    until(lambda: tenant.status("given-up").get("state") == "Preflight" or None, 60)
    tenant.delete("given-up")
    until(lambda: tenant.children("jobs", "given-up") == [] or None, 60)
    until(lambda: tenant.children("pods", "given-up") == [] or None, 60)


def test_a_job_suspended_during_its_preflight_gets_no_gpu_until_it_is_released(
    tenant: Tenant,
) -> None:
    apply(tenant, "withheld", "publishes-0.1", **checks("passes-6"))
    until(lambda: tenant.status("withheld").get("state") == "Preflight" or None, 60)
    patch = ("patch", "ftj", "withheld", "--type=merge", "-p")
    tenant.kubectl(*patch, '{"spec":{"suspend":true}}')
    tenant.wait("withheld", "Suspended", 60)
    assert jobs(tenant, "withheld") == []
    tenant.kubectl(*patch, '{"spec":{"suspend":false}}')
    status = tenant.wait("withheld", "Complete", 60)
    assert [each["state"] for each in status["attempts"]] == ["Stopped", "Succeeded"]
    assert jobs(tenant, "withheld") == ["withheld-2", "withheld-2-preflight"]


@pytest.mark.parametrize("name", ["theirs-a-1", "theirs-b-1-preflight"])
def test_a_job_of_somebody_else_is_left_alone(tenant: Tenant, name: str) -> None:
    tenant.kubectl("create", "job", name, "--image=x", "--", "true")
    ours = "-".join(name.split("-")[:2])
    apply(tenant, ours, "publishes", **checks("passes-0.1"))
    failure = tenant.wait(ours, "Failed", 60)["failure"]
    assert failure["reason"] == "NameConflict"
    assert name in failure["message"]
    assert f"{ours}-1" not in jobs(tenant, ours)
    assert "ownerReferences" not in tenant.get("job", name)["metadata"]


def test_an_operator_killed_after_the_preflight_passed_makes_the_trainers_once(
    stack: Stack, tenant: Tenant
) -> None:
    mark = stack.cluster.audit.mark()
    apply(tenant, "resumed", "publishes-0.1", **checks("passes-2"))
    until(lambda: tenant.status("resumed").get("state") == "Preflight" or None, 60)
    stack.kill_operator()
    finished = lambda: tenant.children("jobs", "resumed")[0]["status"].get("succeeded")  # noqa: E731
    until(finished, 60)
    assert jobs(tenant, "resumed") == ["resumed-1-preflight"]
    stack.start_operator(FAST)
    status = tenant.wait("resumed", "Complete", 60)
    assert status["plan"]["rows"] == 12
    assert created(stack, mark) == ["resumed-1-preflight", "resumed-1"]


@pytest.mark.parametrize("lives", [*range(1, 9), 0], ids=lambda n: f"after {n}" if n else "always")
async def test_a_kill_after_any_write_changes_nothing(
    stack: Stack, as_operator: Tenant, lives: int
) -> None:
    """As in `test_operator`, with a preflight: nothing is made twice, and nothing too soon."""
    assert stack.account is not None
    mark, name = stack.cluster.audit.mark(), f"mortal-check-{lives}"
    apply(as_operator, name, "publishes-0.3", **checks("passes-0.3"))
    kills, left = 0, lives or 1
    while await run_until_killed(Key(as_operator.namespace, name), left):
        kills += 1
        left = sys.maxsize if lives else 1
    assert kills == 1 if lives else kills >= 8
    status = as_operator.status(name)
    assert status["state"] == "Complete"
    assert [each["job"] for each in status["attempts"]] == [f"{name}-1"]
    told = ["PreflightPassed", "JobCreated", "OutputPublished"]
    assert sorted(as_operator.events(name)) == sorted(("Normal", reason) for reason in told)
    answered = [
        event["objectRef"]["resource"]
        for event in stack.cluster.audit.events(stack.account.user, mark)
        if event["verb"] == "create" and event["responseStatus"]["code"] == 201
    ]
    assert sorted(answered) == ["events"] * 3 + ["jobs"] * 2
