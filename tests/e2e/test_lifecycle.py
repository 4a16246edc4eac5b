"""Deletion, a killed operator, suspension: what happens around a run."""

import time

import pytest

from support.tenant import Object, Tenant, conditions, until

LONG: Object = {"training": {"maxSteps": 100_000, "batchSize": 8, "learningRate": 1e-3}}


def started(tenant: Tenant, name: str) -> Object:
    """The status once the first step is done."""

    def question() -> Object | None:
        status = tenant.status(name)
        assert conditions(status).get("Failed") != "True", status
        return status if status.get("progress", {}).get("step", 0) > 0 else None

    found: Object = until(question, 120)
    return found


def test_a_job_deleted_in_its_run_leaves_nothing(tenant: Tenant) -> None:
    tenant.apply("doomed", LONG)
    started(tenant, "doomed")
    tenant.delete("doomed")
    until(lambda: tenant.children("pods", "doomed") == [] or None, 60)
    until(lambda: tenant.children("jobs", "doomed") == [] or None, 30)


@pytest.mark.usefixtures("restart_operator")
def test_a_killed_operator_finds_its_job_again(tenant: Tenant) -> None:
    tenant.apply("survivor", {"training": {"maxSteps": 400, "batchSize": 8, "learningRate": 1e-3}})
    before = started(tenant, "survivor")
    [job] = tenant.children("jobs", "survivor")
    tenant.stack.kill_operator()
    time.sleep(2)
    tenant.stack.start_operator({"FINETUNE_OPERATOR_STATUS_INTERVAL_SECONDS": "1"})
    status = tenant.wait("survivor", "Complete")
    assert [child["metadata"]["uid"] for child in tenant.children("jobs", "survivor")] == [
        job["metadata"]["uid"]
    ]
    [attempt] = status["attempts"]
    assert attempt["number"] == 1
    assert status["startTime"] == before["startTime"]
    assert sorted(tenant.events("survivor")) == [
        ("Normal", "JobCreated"),
        ("Normal", "OutputPublished"),
    ]


@pytest.mark.usefixtures("restart_operator")
def test_a_restart_writes_nothing(tenant: Tenant) -> None:
    tenant.apply("done", {"resources.nodes": 2})
    tenant.wait("done", "Failed")
    tenant.stack.stop_operator()
    mark = tenant.stack.cluster.audit.mark()
    tenant.stack.start_operator()
    time.sleep(3)
    assert tenant.stack.operator_writes(since=mark) == []


@pytest.mark.usefixtures("restart_operator")
def test_a_job_that_ends_while_the_operator_is_down_is_complete_afterwards(tenant: Tenant) -> None:
    tenant.apply("alone")
    started(tenant, "alone")
    tenant.stack.stop_operator()
    finished = lambda: tenant.children("jobs", "alone")[0]["status"].get("succeeded")  # noqa: E731
    until(finished, 120)
    tenant.stack.start_operator()
    assert tenant.wait("alone", "Complete", 30)["evaluation"]["lossAfter"]


def test_a_suspended_job_waits_until_it_may_start(tenant: Tenant) -> None:
    tenant.apply("patient", {"suspend": True})
    until(lambda: conditions(tenant.status("patient")).get("Suspended") == "True" or None)
    assert tenant.children("jobs", "patient") == []
    tenant.stack.cluster.kubectl(
        "patch", "ftj", "patient", "-n", "team", "--type=merge", "-p", '{"spec":{"suspend":false}}'
    )
    status = tenant.wait("patient", "Complete")
    assert conditions(status)["Suspended"] == "False"


def test_suspending_a_running_job_is_refused_and_loses_nothing(tenant: Tenant) -> None:
    tenant.apply("busy", LONG)
    started(tenant, "busy")
    tenant.stack.cluster.kubectl(
        "patch", "ftj", "busy", "-n", "team", "--type=merge", "-p", '{"spec":{"suspend":true}}'
    )

    def refused() -> Object | None:
        found = [c for c in tenant.status("busy")["conditions"] if c["type"] == "Suspended"]
        return found[0] if found else None

    condition = until(refused)
    assert (condition["status"], condition["reason"]) == ("False", "NotImplemented")
    assert tenant.children("pods", "busy")[0]["status"]["phase"] == "Running"
    tenant.delete("busy")


def test_a_deleted_child_job_ends_the_job_with_its_reason(tenant: Tenant) -> None:
    tenant.apply("robbed", LONG)
    started(tenant, "robbed")
    tenant.stack.cluster.kubectl("delete", "job", "robbed-1", "-n", "team", "--wait=false")
    status = tenant.wait("robbed", "Failed", 60)
    assert status["failure"]["reason"] == "JobDeleted"
    assert tenant.children("jobs", "robbed") == []


def test_a_job_recreated_under_its_old_name_gets_its_own_attempt(tenant: Tenant) -> None:
    tenant.apply("phoenix", LONG)
    started(tenant, "phoenix")
    former = tenant.children("jobs", "phoenix")[0]["metadata"]["uid"]
    tenant.delete("phoenix")
    until(lambda: "phoenix" not in _names(tenant) or None)
    tenant.apply("phoenix")
    tenant.wait("phoenix", "Complete")
    [job] = tenant.children("jobs", "phoenix")
    assert job["metadata"]["uid"] != former


def _names(tenant: Tenant) -> list[str]:
    return [job["metadata"]["name"] for job in tenant.get("ftj")["items"]]


def test_a_killed_trainer_is_a_lost_pod(tenant: Tenant) -> None:
    tenant.apply("killed", LONG)
    started(tenant, "killed")
    [pod] = tenant.children("pods", "killed")
    tenant.stack.cluster.kubectl(
        "delete", "pod", pod["metadata"]["name"], "-n", "team", "--grace-period=0", "--force"
    )
    status = tenant.wait("killed", "Failed", 60)
    assert status["failure"]["reason"] in ("PodLost", "Preempted")
    assert (
        pod["metadata"]["name"] in status["failure"]["message"]
        or "pod" in status["failure"]["message"]
    )
