"""Deadlines over several Jobs: to start, to end, to be removed; and the time that a pod gets to save."""

from typing import Any

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import CheckpointStatus, FineTuneJobStatus, Plan
from finetune_operator.plan import grace
from finetune_operator.plan.decide import decide
from finetune_operator.plan.decision import Decision
from support.cluster_objects import pod, waiting
from support.worlds import World, progress


def policy(**fields: Any) -> dict[str, Any]:
    return {"runPolicy": fields}


# -- to start ------------------------------------------------------------------------------------


def test_an_attempt_that_does_not_start_in_time_ends_the_job_and_says_what_it_waited_for() -> None:
    world = World(policy(startupDeadlineSeconds=120))
    world.settle()
    owner = {"kind": "Job", "name": "demo-1", "uid": "demo-1", "controller": True}
    why = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
    unscheduled = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
    ]
    world.pods["demo-1"] = pod(
        waiting("x"), metadata={"ownerReferences": [owner]}, conditions=unscheduled
    )
    world.settle()
    assert world.wake_after is not None
    assert world.wake_after <= 121
    world.pass_time(119)
    world.settle()
    assert world.condition("Failed") == ("", "")
    world.pass_time(2)
    world.settle()
    assert world.condition("Failed") == ("True", "StartupDeadlineExceeded")
    assert world.status.failure is not None
    assert why in world.status.failure.message
    assert "startupDeadlineSeconds (120 s)" in world.status.failure.message
    assert world.stopped == ["demo-1"]


def test_a_first_step_ends_the_startup() -> None:
    world = World(policy(startupDeadlineSeconds=120))
    world.settle()
    world.run("demo-1", step=1)
    world.settle()
    world.pass_time(300)
    world.settle()
    assert world.condition("Running") == ("True", "PodsRunning")


def test_a_resumed_attempt_must_do_a_step_of_its_own() -> None:
    world = World(policy(startupDeadlineSeconds=120))
    world.settle()
    world.run("demo-1", step=50, resumed=CheckpointStatus(step=50, uri="s3://b/c"))
    world.settle()
    world.pass_time(121)
    world.settle()
    assert world.condition("Failed") == ("True", "StartupDeadlineExceeded")


def test_a_run_that_has_only_to_be_published_has_started() -> None:
    world = World(policy(startupDeadlineSeconds=120))
    world.settle()
    world.run("demo-1", step=50, resumed=CheckpointStatus(step=50, uri="s3://b/c"))
    found = progress(50).model_copy(update={"phase": "Publishing"})
    world.tail = type(world.tail)(progress=found, resumed=world.tail.resumed)
    world.pass_time(121)
    world.settle()
    assert world.condition("Failed") == ("", "")


# -- to end --------------------------------------------------------------------------------------


def test_the_deadline_spans_all_attempts_and_their_pauses() -> None:
    world = World(policy(activeDeadlineSeconds=1000))
    world.settle()
    assert world.created[0].deadline_seconds == 1000
    world.run("demo-1", step=1)
    world.settle()
    world.pass_time(600)
    world.fail("demo-1", Reason.PREEMPTED)
    world.settle()
    assert world.created[1].deadline_seconds == 400
    world.run("demo-2", step=2)
    world.settle()
    world.pass_time(395)
    world.fail("demo-2", Reason.HANG)
    world.settle()
    world.pass_time(10)
    world.settle()
    assert world.condition("Failed") == ("True", "DeadlineExceeded")
    assert len(world.created) == 2


def test_suspension_does_not_count_against_the_deadline() -> None:
    world = World(policy(activeDeadlineSeconds=1000))
    world.settle()
    world.run("demo-1", step=1)
    world.settle()
    world.pass_time(900)
    world.changes["suspend"] = True
    world.settle()
    world.end("demo-1")
    world.settle()
    world.pass_time(10**6)
    world.changes["suspend"] = False
    world.settle()
    assert world.created[1].deadline_seconds == 1000


# -- to be removed -------------------------------------------------------------------------------


def ended(**fields: Any) -> World:
    world = World(policy(**fields) if fields else None)
    world.settle()
    world.fail("demo-1", Reason.DATA_EMPTY)
    world.settle()
    assert world.condition("Failed")[0] == "True"
    return world


def test_an_ended_job_stays_for_its_time() -> None:
    world = ended(ttlSecondsAfterFinished=60)
    assert decide(world.facts(), world.now) == Decision(wake_after=60)
    world.pass_time(60)
    assert decide(world.facts(), world.now) == Decision(remove=True)


def test_the_time_may_be_changed_after_the_end() -> None:
    world = ended()
    assert decide(world.facts(), world.now) == Decision()
    world.changes |= policy(ttlSecondsAfterFinished=0)
    assert decide(world.facts(), world.now) == Decision(remove=True)


def test_a_job_that_has_not_ended_is_not_removed() -> None:
    world = World(policy(ttlSecondsAfterFinished=0))
    world.settle()
    world.run("demo-1")
    world.pass_time(10**6)
    world.settle()
    assert not world.removed


# -- to save -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("save", "step", "seconds"),
    [(None, None, 30), ("4", 1, 30), ("50.2", 2, 103), ("50.2", None, 101), ("400", 1, 600),
     ("nonsense", None, 30), ("-5", None, 30), ("inf", None, 30)],
)  # fmt: skip
def test_the_grace_period_follows_from_the_measured_save(
    save: str | None, step: float | None, seconds: int
) -> None:
    checkpoint = CheckpointStatus(step=1, uri="u", save_seconds=save) if save else None
    found = progress(1, seconds=step) if step else None
    status = FineTuneJobStatus(checkpoint=checkpoint, progress=found)
    assert grace.measured(status) == seconds


@pytest.mark.parametrize(
    ("trained", "seconds"),
    # LoRA of 4.9 million parameters; a whole model of 134.5 million, whose checkpoint has 1.6 GB; 8 billion.
    [(None, 30), (-1, 30), (4_900_000, 30), (134_500_000, 65), (8_000_000_000, 600)],
)
def test_before_the_first_save_its_time_is_expected_from_its_size(
    trained: int | None, seconds: int
) -> None:
    plan = Plan(trainable_parameters=trained)
    assert grace.measured(FineTuneJobStatus(plan=plan)) == seconds
    saved = CheckpointStatus(step=1, uri="u", save_seconds="20")
    # What was measured counts.
    assert grace.measured(FineTuneJobStatus(plan=plan, checkpoint=saved)) == 40


def test_a_new_attempt_gets_the_measured_time_and_the_checkpoint_never_goes_back() -> None:
    world = World()
    world.settle()
    world.run("demo-1", step=9)
    saved = CheckpointStatus(step=8, uri="s3://b/1-8", save_seconds="60")
    world.tail = type(world.tail)(progress=progress(9), checkpoint=saved)
    world.settle()
    assert world.status.checkpoint == saved
    world.fail("demo-1", Reason.PREEMPTED)
    world.settle()
    assert world.created[1].grace_seconds == 121
    older = CheckpointStatus(step=3, uri="s3://b/2-3")
    world.run("demo-2", step=3)
    world.tail = type(world.tail)(progress=progress(3), checkpoint=older)
    world.settle()
    assert world.status.checkpoint == saved
