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
    tenant.apply("done", {"training.precision": "Float16"})
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


def test_a_running_job_is_suspended_with_a_checkpoint_and_goes_on_from_it(tenant: Tenant) -> None:
    tenant.apply("busy", LONG)
    started(tenant, "busy")
    patch = ("patch", "ftj", "busy", "-n", "team", "--type=merge", "-p")
    tenant.stack.cluster.kubectl(*patch, '{"spec":{"suspend":true}}')
    tenant.wait("busy", "Suspended", 90)
    assert tenant.children("pods", "busy") == []
    tenant.stack.cluster.kubectl(*patch, '{"spec":{"suspend":false}}')
    status = until(lambda: second(tenant, "busy"), 120)
    assert status["attempts"][0]["state"] == "Stopped"
    assert status["attempts"][1]["startStep"] > 0
    tenant.delete("busy")


def second(tenant: Tenant, name: str) -> Object | None:
    """The status once the second attempt has begun where the first one stopped."""
    status = tenant.status(name)
    attempts = status.get("attempts", ())
    return status if len(attempts) == 2 and "startStep" in attempts[1] else None


def test_a_deleted_child_job_is_made_again(tenant: Tenant) -> None:
    tenant.apply("robbed", LONG)
    started(tenant, "robbed")
    tenant.stack.cluster.kubectl("delete", "job", "robbed-1", "-n", "team", "--wait=false")
    status = until(lambda: second(tenant, "robbed"), 120)
    assert status["attempts"][0]["reason"] == "JobDeleted"
    assert [each["metadata"]["name"] for each in tenant.children("jobs", "robbed")] == ["robbed-2"]
    tenant.delete("robbed")


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


def test_a_killed_trainer_is_followed_by_another(tenant: Tenant) -> None:
    tenant.apply("killed", LONG | {"checkpoints.everySteps": 1})
    until(lambda: tenant.status("killed").get("checkpoint"), 120)
    [pod] = tenant.children("pods", "killed")
    tenant.stack.cluster.kubectl(
        "delete", "pod", pod["metadata"]["name"], "-n", "team", "--grace-period=0", "--force"
    )
    status = until(lambda: second(tenant, "killed"), 120)
    assert status["attempts"][0]["reason"] in ("PodLost", "Preempted")
    assert status["attempts"][1]["startStep"] > 0
    tenant.delete("killed")
