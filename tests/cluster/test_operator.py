"""The operator against a real API server, Job controller and process node; only the trainer is a fake.

The fake speaks the trainer's contract and trains nothing, so that every ending can be had in
seconds. Rights and settings are those of the chart. See `tests/e2e` for the real trainer.
"""

import json
import sys
import time

import pytest

from finetune_operator.observe.facts import Key
from support.fakes import FAST, apply, condition, run_until_killed
from support.stack import Stack
from support.tenant import Tenant, conditions, until


def test_a_life_costs_few_writes_and_a_restart_none(stack: Stack, tenant: Tenant) -> None:
    mark = stack.cluster.audit.mark()
    apply(tenant, "life", "publishes-0.1")
    started = time.monotonic()
    until(lambda: tenant.children("jobs", "life") or None)
    # kubectl's own start is in it; the operator takes some ten milliseconds.
    assert time.monotonic() - started < 2
    status = tenant.wait("life", "Complete", 60)
    assert status["state"] == "Complete"
    assert status["output"]["uri"] == "s3://models/output"
    assert (status["evaluation"]["lossBefore"], status["progress"]["step"]) == ("4.0", 4)
    writes = stack.operator_writes(mark)
    by_kind = [write.resource for write in writes]
    assert by_kind.count("jobs") == 1
    assert by_kind.count("events") == 2
    # Starting, Running, at most two of progress within 0.4 s, Complete.
    assert by_kind.count("finetunejobs") <= 5, writes
    apply(tenant, "held", "hangs")
    tenant.wait("held", "Running", 60)
    until(lambda: tenant.status("held").get("progress"))
    time.sleep(2)
    stack.kill_operator()
    mark = stack.cluster.audit.mark()
    stack.start_operator(FAST)
    time.sleep(4)
    assert stack.operator_writes(mark) == []
    tenant.delete("held")


@pytest.mark.parametrize(
    ("behaviour", "reason", "words"),
    [
        ("refuses", "DataNotFound", "does not exist"),
        ("crashes", "InternalError", "ZeroDivisionError: a defect"),
        ("silent", "InternalError", "no report"),
        ("garbage", "InternalError", "exit code 1"),
    ],
)
def test_every_ending_is_classified(
    tenant: Tenant, behaviour: str, reason: str, words: str
) -> None:
    apply(tenant, behaviour, f"{behaviour}-0.1")
    status = tenant.wait(behaviour, "Failed", 60)
    assert status["failure"]["reason"] == reason
    assert words in status["failure"]["message"]
    assert status["failure"]["hint"]
    assert "\x1b" not in json.dumps(status)
    assert ("Warning", reason) in tenant.events(behaviour)


def test_a_job_of_somebody_else_is_left_alone(tenant: Tenant) -> None:
    tenant.kubectl("create", "job", "theirs-1", "--image=x", "--", "true")
    show = ("--show-managed-fields", "theirs-1")
    apply(tenant, "theirs", "publishes")
    assert tenant.wait("theirs", "Failed", 60)["failure"]["reason"] == "NameConflict"
    after = tenant.get("job", *show)["metadata"]["managedFields"]
    managers = {each["manager"] for each in after}
    assert "kubectl-create" in managers
    assert "finetune-operator" not in managers


def test_a_deadline_ends_the_attempt(tenant: Tenant) -> None:
    apply(tenant, "slow", "hangs", runPolicy={"activeDeadlineSeconds": 3})
    assert tenant.wait("slow", "Failed", 60)["failure"]["reason"] == "DeadlineExceeded"


def test_a_suspended_job_waits_and_goes_on(tenant: Tenant) -> None:
    apply(tenant, "waits", "publishes-0.1", suspend=True)
    tenant.wait("waits", "Suspended", 60)
    assert tenant.children("jobs", "waits") == []
    tenant.kubectl("patch", "ftj", "waits", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    assert conditions(tenant.wait("waits", "Complete", 60))["Suspended"] == "False"


def test_a_quota_is_named_until_it_is_lifted(tenant: Tenant) -> None:
    kubectl = tenant.kubectl
    kubectl("create", "quota", "none", "--hard=count/jobs.batch=0")
    try:
        apply(tenant, "poor", "publishes-0.1")
        until(lambda: "exceeded quota" in condition(tenant, "poor", "Running")[1] or None, 60)
    finally:
        kubectl("delete", "quota", "none")
    tenant.wait("poor", "Complete", 60)


def test_a_paused_api_server_is_outlived(stack: Stack, tenant: Tenant) -> None:
    apply(tenant, "patient", "publishes-2")
    tenant.wait("patient", "Running", 60)
    stack.kill_operator()
    [server] = [each for each in stack.cluster.processes if each.name == "kube-apiserver"]
    stack.start_operator(FAST)
    server.signal(19)
    time.sleep(12)
    server.signal(18)
    tenant.wait("patient", "Complete", 120)
    assert stack.operator is not None
    assert stack.operator.alive


def test_a_deleted_namespace_takes_its_jobs_along(stack: Stack, tenant: Tenant) -> None:
    stack.create_tenant("doomed")
    doomed = Tenant(stack, "doomed")
    apply(doomed, "along", "hangs", runPolicy={"terminationGracePeriodSeconds": 1})
    doomed.wait("along", "Running", 60)
    # No finalizer of ours holds it up, and what cannot be created there any more stops nobody.
    stack.cluster.kubectl("delete", "namespace", "doomed", "--timeout=60s")
    apply(tenant, "neighbour", "publishes-0.1")
    tenant.wait("neighbour", "Complete", 60)


# -- kills between writes ----------------------------------------------------------------------


@pytest.mark.parametrize("lives", [1, 2, 3, 4, 5, 0], ids=lambda n: f"after {n}" if n else "always")
async def test_a_kill_after_any_write_changes_nothing(
    stack: Stack, as_operator: Tenant, lives: int
) -> None:
    """One kill after the n-th write, or one after every write: the job ends as without any."""
    assert stack.account is not None
    mark, name = stack.cluster.audit.mark(), f"mortal-{lives}"
    apply(as_operator, name, "publishes-0.3")
    kills = 0
    left = lives or 1
    while await run_until_killed(Key(as_operator.namespace, name), left):
        kills += 1
        left = sys.maxsize if lives else 1
    assert kills == 1 if lives else kills >= 5
    status = as_operator.status(name)
    assert status["state"] == "Complete"
    assert [each["job"] for each in status["attempts"]] == [f"{name}-1"]
    assert sorted(as_operator.events(name)) == [
        ("Normal", "JobCreated"),
        ("Normal", "OutputPublished"),
    ]
    created = [
        event for event in stack.cluster.audit.events(stack.account.user, mark)
        if event["verb"] == "create" and event["responseStatus"]["code"] == 201
    ]  # fmt: skip
    # Each object was made once: the Job and two events.
    assert len(created) == 3
