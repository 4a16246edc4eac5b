"""The lease: how long progress may stand still, and what must be seen before a gang is killed."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.v1alpha1.status import Progress
from finetune_operator.observe.facts import Key, Tail
from finetune_operator.plan import hang
from finetune_operator.store import Store
from support.cluster_objects import RUNNING, child, job, pod
from support.worlds import World, progress


@pytest.mark.parametrize(
    ("found", "seconds"),
    [
        (progress(0), None),
        (Progress(phase="LoadingModel"), None),
        (progress(10, seconds=1), 600),
        (progress(10, seconds=30), 600),
        (progress(10, seconds=31), 620),
        (progress(10, seconds=600), 12_000),
        (progress(10).model_copy(update={"phase": "Evaluating"}), 3600),
        (progress(10, seconds=600).model_copy(update={"phase": "Saving"}), 12_000),
        (Progress(phase="Training", step=3), 3600),
        (progress(100), 3600),
    ],
    ids=["step 0", "loading", "fast", "at the limit", "slow", "very slow", "evaluating",
         "saving slowly", "no estimate", "last step"],
)  # fmt: skip
def test_the_lease_follows_from_the_time_of_a_step(found: Progress, seconds: float | None) -> None:
    assert hang.lease(found) == (seconds and pytest.approx(seconds))


def training(step: int = 5) -> World:
    world = World()
    world.settle()
    world.run("demo-1", step=step)
    world.settle()
    assert world.status.progress_time == "2026-01-01T00:00:00Z"
    return world


def silent(world: World, seconds: float, observed: float | None = None) -> None:
    """The wall clock says that so long nothing came; the operator itself has watched for `observed`."""
    world.pass_time(seconds)
    seen = seconds if observed is None else observed
    world.tail = replace(world.tail, silent_seconds=seen)
    world.settle()


def test_trainers_that_stand_still_are_killed_and_tried_again() -> None:
    world = training()
    silent(world, 601)
    assert world.attempts == [(1, "Failed", "Hang")]
    assert world.stopped == ["demo-1"]
    assert world.condition("Running") == ("False", "Hang")
    assert "no progress for 601 s in phase Training at step 5" in world.message("Running")
    assert "a step took 1 s before" in world.message("Running")
    assert world.status.retries is not None
    assert world.status.retries.infrastructure == 1
    world.end("demo-1")
    world.settle()
    world.pass_time(60)
    world.settle()
    assert [each.attempt for each in world.created] == [1, 2]


def test_a_hang_without_a_budget_ends_the_job_after_the_gang_was_stopped() -> None:
    world = training()
    world.changes["runPolicy.retries"] = {"infrastructure": 0}
    silent(world, 601)
    assert world.stopped == ["demo-1"]
    assert world.condition("Failed") == ("True", "Hang")
    assert world.status.failure is not None
    assert "no progress for 601 s" in world.status.failure.message
    assert "runPolicy.retries.infrastructure is 0" in world.status.failure.message
    told = [(each.reason.value, each.attempt) for each in world.notices]
    assert len(told) == len(set(told))


@pytest.mark.parametrize(
    ("seconds", "observed"),
    [(599, 599), (3600, 0), (3600, 149)],
    ids=["within the lease", "just restarted", "clock jumped"],
)
def test_the_wall_clock_alone_kills_nobody(seconds: float, observed: float) -> None:
    world = training()
    silent(world, seconds, observed)
    assert world.condition("Running") == ("True", "PodsRunning")


def test_a_pod_that_was_told_to_stop_may_save_for_its_whole_grace_period() -> None:
    world = training()
    world._put(world.pods["demo-1"], deletion=world.now + timedelta(hours=5))
    silent(world, 3601)
    assert world.attempts == [(1, "Pending", None)]


def test_a_step_renews_the_lease() -> None:
    world = training()
    world.pass_time(599)
    world.tail = Tail(progress=progress(6))
    world.settle()
    assert world.status.progress_time == "2026-01-01T00:09:59Z"
    silent(world, 599)
    assert world.condition("Running") == ("True", "PodsRunning")
    silent(world, 3, 602)
    assert world.attempts == [(1, "Failed", "Hang")]


def test_the_clock_of_the_trainer_is_no_progress() -> None:
    world = training()
    world.pass_time(300)
    later = progress(5).model_copy(update={"update_time": "2026-01-01T00:05:00Z", "eta_seconds": 9})
    world.tail = Tail(progress=later)
    world.settle()
    assert world.status.progress_time == "2026-01-01T00:00:00Z"


def test_before_the_first_step_nothing_is_a_hang() -> None:
    world = training(step=0)
    silent(world, 10**6)
    assert world.condition("Running") == ("True", "PodsRunning")


# -- what the operator observes ------------------------------------------------------------------


def observed(reads: list[tuple[float, Tail]], **pods: Any) -> float:
    store, key = Store(), Key("default", "demo")
    store.jobs.put(job())
    store.children.put(child())
    for clock, tail in reads:
        store.learn_tail(key, pods.get(str(clock), pod(RUNNING)), tail, clock)
    found = store.facts(key)
    assert found is not None
    return found.tail.silent_seconds


def test_silence_is_measured_between_reads_that_succeeded() -> None:
    same = Tail(progress=progress(5))
    assert observed([(100, same)]) == 0
    assert observed([(100, same), (160, same), (220, same)]) == 120
    assert observed([(100, same), (160, Tail(progress=progress(6)))]) == 0
    # A record that scrolled out of the log is no progress, and neither is other output.
    assert observed([(100, same), (160, Tail(lines=("noise",)))]) == 60


def test_another_pod_begins_anew() -> None:
    same = Tail(progress=progress(5))
    other = pod(RUNNING, metadata={"uid": "second"})
    assert observed([(100, same), (900, same)], **{"900": other}) == 0
