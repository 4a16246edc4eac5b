"""Between two attempts: suspension, Jobs that must end, pods that still save, the order of writes."""

from dataclasses import replace

import pytest

from finetune_api.records import Report
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import CheckpointStatus
from finetune_operator.observe.facts import Role
from finetune_operator.plan.decide import decide
from support.cluster_objects import pod, terminated
from support.worlds import World


def running(changes: dict[str, object] | None = None, *, step: int = 3) -> World:
    world = World(changes)
    world.settle()
    world.run("demo-1", step=step)
    world.settle()
    assert world.condition("Running") == ("True", "PodsRunning")
    return world


def suspended() -> World:
    world = running()
    world.changes["suspend"] = True
    world.settle()
    world.end("demo-1")
    world.settle()
    return world


# -- suspension ------------------------------------------------------------------------------------


def test_a_running_job_is_told_to_stop_and_is_suspended_when_its_pods_are_gone() -> None:
    world = running()
    world.changes["suspend"] = True
    world.settle()
    assert world.stopped == ["demo-1"]
    assert world.condition("Suspended") == ("False", "Suspending")
    assert world.condition("Running") == ("False", "Suspending")
    assert world.status.state == "Suspending"
    assert world.attempts == [(1, "Stopped", "SuspendedByUser")]
    assert world.wake_after
    world.end("demo-1")
    world.settle()
    assert world.condition("Suspended") == ("True", "SuspendedByUser")
    assert world.condition("Running") == ("False", "SuspendedByUser")
    assert world.status.state == "Suspended"
    assert world.wake_after is None


def test_a_released_job_goes_on_as_a_new_attempt_that_costs_nothing() -> None:
    world = suspended()
    world.changes["suspend"] = False
    world.settle()
    assert [each.attempt for each in world.created] == [1, 2]
    assert world.condition("Suspended") == ("False", "NotSuspended")
    assert world.status.retries is None
    assert world.status.state == "Starting"


def test_a_job_released_while_it_stops_begins_when_the_old_pods_are_gone() -> None:
    world = running()
    world.changes["suspend"] = True
    world.settle()
    world.changes["suspend"] = False
    world.settle()
    assert [each.attempt for each in world.created] == [1]
    assert world.condition("Suspended") == ("False", "NotSuspended")
    world.end("demo-1")
    world.settle()
    assert [each.attempt for each in world.created] == [1, 2]


def test_a_job_that_waits_to_be_tried_again_can_be_suspended() -> None:
    world = running()
    world.fail("demo-1", Reason.STORAGE_UNAVAILABLE)
    world.settle()
    world.changes["suspend"] = True
    world.settle()
    assert world.condition("Suspended") == ("True", "SuspendedByUser")
    world.pass_time(3600)
    world.settle()
    assert len(world.created) == 1
    world.changes["suspend"] = False
    world.settle()
    assert [each.attempt for each in world.created] == [1, 2]


def test_a_job_whose_pods_are_pending_can_be_suspended() -> None:
    world = World()
    world.settle()
    world.changes["suspend"] = True
    world.settle()
    assert (world.stopped, world.jobs) == (["demo-1"], {})
    assert world.condition("Suspended") == ("True", "SuspendedByUser")


def test_a_preflight_can_be_suspended_and_is_made_again() -> None:
    world = World({"resources.gpusPerNode": 1})
    world.settle()
    assert list(world.jobs) == ["demo-1-preflight"]
    world.changes["suspend"] = True
    world.settle()
    assert world.condition("Suspended") == ("True", "SuspendedByUser")
    world.changes["suspend"] = False
    world.settle()
    assert [(each.attempt, each.role) for each in world.created] == [
        (1, Role.PREFLIGHT), (2, Role.PREFLIGHT),
    ]  # fmt: skip


def test_an_attempt_that_ended_before_it_heard_of_the_suspension_is_judged_by_its_end() -> None:
    world = running()
    world.fail("demo-1", Reason.DATA_INVALID)
    world.changes["suspend"] = True
    world.settle()
    assert world.condition("Failed") == ("True", "DataInvalid")


def test_suspending_costs_few_writes_however_long_it_lasts() -> None:
    world = suspended()
    status = world.status
    world.pass_time(10**6)
    world.settle()
    assert world.status == status


@pytest.mark.parametrize("lives", range(1, 7))
def test_an_operator_that_dies_while_it_suspends_ends_at_the_same(lives: int) -> None:
    world = running()
    world.changes["suspend"] = True
    world.settle(lives)
    world.settle()
    world.end("demo-1")
    world.settle(lives)
    world.settle()
    assert world.attempts == [(1, "Stopped", "SuspendedByUser")]
    assert world.condition("Suspended") == ("True", "SuspendedByUser")


def test_what_the_pods_saved_last_is_known_although_they_are_gone_soon() -> None:
    world = running()
    world.changes["suspend"] = True
    world.settle()
    saved = CheckpointStatus(step=7, uri="s3://b/1-7")
    report = Report(outcome="Failed", reason=Reason.PREEMPTED, message="m", checkpoint=saved)
    metadata = {
        "name": "demo-1-0", "uid": "demo-1-0", "resourceVersion": "90",
        "deletionTimestamp": "2026-01-01T00:00:30Z",
        "ownerReferences": [{"kind": "Job", "name": "demo-1", "uid": "demo-1", "controller": True}],
    }  # fmt: skip
    world.pods["demo-1"] = pod(terminated(143, report.to_message()), metadata=metadata)
    world.settle()
    assert world.status.checkpoint == saved


# -- the order of things -----------------------------------------------------------------------------


def test_nothing_begins_while_a_pod_of_the_last_attempt_may_run() -> None:
    world = running()
    owner = world.pods["demo-1"]
    # Somebody deleted the Job; the garbage collector has not come to the pod yet.
    del world.jobs["demo-1"]
    world.settle()
    world.pass_time(3600)
    world.settle()
    assert len(world.created) == 1
    assert world.wake_after
    world.pods["demo-1"] = replace(owner, phase="Failed", resource_version=99)
    world.settle()
    assert [each.attempt for each in world.created] == [1, 2]


def test_a_lost_node_holds_up_the_next_attempt_for_a_minute_after_the_grace_period() -> None:
    world = running()
    name, grace = "demo-1", 30
    stuck = world.pods[name]
    world._put(stuck, deletion=world.now.replace(second=grace))
    world.settle()
    assert world.wake_after is not None
    assert world.wake_after <= grace + 61
    world.pass_time(grace + 61)
    world.settle()
    assert world.attempts[0] == (1, "Failed", "NodeLost")
    # Its Job is no longer wanted, though the pod object may stay for ever.
    assert world.stopped == [name]
    world.pass_time(600)
    world.settle()
    assert [each.attempt for each in world.created] == [1, 2]


def test_the_next_attempt_is_created_from_confirmed_facts_only() -> None:
    world = running(step=5)
    world.fail("demo-1", Reason.PREEMPTED)
    world.settle(1)
    assert decide(world.facts(), world.now).confirm
    assert decide(world.facts(confirmed=True), world.now).create


def test_a_finished_job_is_never_deleted() -> None:
    world = running()
    world.fail("demo-1", Reason.STORAGE_UNAVAILABLE)
    world.settle()
    world.pass_time(3600)
    world.settle()
    assert world.stopped == []
    assert sorted(world.jobs) == ["demo-1", "demo-2"]
