"""Which failures are tried again, how often, after what pause; counts that survive a short list."""

import pytest

from finetune_api.v1alpha1.meanings import FailureClass
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.plan import retries
from support.worlds import World

# A hundred days: past any pause.
LONG = 8_640_000


def ended(reason: Reason, changes: dict[str, object] | None = None) -> World:
    """A world whose first attempt has just ended like this, after no step."""
    world = World(changes)
    world.settle()
    world.run("demo-1")
    world.settle()
    world.fail("demo-1", reason, "what happened")
    world.settle()
    return world


def fail_until_final(world: World, reason: Reason, *, step: int = 0, most: int = 60) -> int:
    """Lets every attempt end like this; the number of attempts there were."""
    for number in range(1, most + 1):
        world.settle()
        name = f"demo-{number}"
        assert list(world.jobs)[-1] == name, world.attempts
        world.run(name, step=step)
        world.settle()
        world.fail(name, reason, "what happened")
        world.settle()
        if world.condition("Failed")[0] == "True":
            return number
        world.pass_time(LONG)
    return most


# -- by class ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", list(Reason))
def test_only_what_may_pass_is_tried_again(reason: Reason) -> None:
    if reason.meaning.failure is FailureClass.NONE:
        return
    world = ended(reason)
    passing = {"Disruption", "Infrastructure", "Hang", "OutOfMemory"}
    if reason.meaning.failure.value in passing:
        assert world.condition("Failed") == ("", "")
        assert world.condition("Running") == ("False", "RetryWaiting")
        assert world.attempts == [(1, "Failed", reason.value)]
    else:
        assert world.condition("Failed") == ("True", reason.value)
        assert world.status.failure is not None
        assert world.status.failure.message == "what happened"


@pytest.mark.parametrize(("budget", "attempts"), [(None, 4), (0, 1), (1, 2)])
def test_the_budget_for_infrastructure(budget: int | None, attempts: int) -> None:
    changes = {} if budget is None else {"runPolicy.retries": {"infrastructure": budget}}
    world = World(changes)
    assert fail_until_final(world, Reason.STORAGE_UNAVAILABLE, step=3) == attempts
    failure = world.status.failure
    assert failure is not None
    assert failure.reason == "StorageUnavailable"
    assert "what happened" in failure.message
    assert f"attempt {attempts}, the last" in failure.message
    assert (
        f"runPolicy.retries.infrastructure is {3 if budget is None else budget}" in failure.message
    )


def test_a_hang_counts_as_infrastructure() -> None:
    world = World({"runPolicy.retries": {"infrastructure": 1}})
    assert fail_until_final(world, Reason.HANG) == 2


def test_memory_that_runs_out_halves_the_micro_batch_once() -> None:
    world = ended(Reason.OUT_OF_MEMORY)
    assert [(r.field, r.value) for r in world.status.resolved or ()] == [
        ("runPolicy.retries.outOfMemory", "micro-batch / 2")
    ]
    world.pass_time(LONG)
    world.settle()
    assert [each.micro_batch_divisor for each in world.created] == [1, 2]
    world.run("demo-2", step=1)
    world.settle()
    assert "micro-batch / 2" in str(world.status.resolved)
    world.fail("demo-2", Reason.OUT_OF_MEMORY)
    world.settle()
    assert world.condition("Failed") == ("True", "OutOfMemory")


def test_the_budget_for_memory_may_be_none() -> None:
    world = ended(Reason.OUT_OF_MEMORY, {"runPolicy.retries": {"outOfMemory": 0}})
    assert world.condition("Failed") == ("True", "OutOfMemory")


def test_disruption_is_free_while_steps_are_done() -> None:
    world = World()
    assert fail_until_final(world, Reason.PREEMPTED, step=5, most=40) == 40
    assert world.status.retries is not None
    assert (world.status.retries.disruption, world.status.retries.without_progress) == (40, 0)


def test_disruption_without_a_step_is_no_endless_loop() -> None:
    world = World()
    assert fail_until_final(world, Reason.PREEMPTED) == retries.MAX_WITHOUT_PROGRESS
    assert world.status.failure is not None
    assert "16 in a row ended before a training step" in world.status.failure.message


def test_budgets_are_of_their_own() -> None:
    """Disruptions between them neither use up the budget for infrastructure nor renew it."""
    world = World()
    turns = [Reason.HANG, Reason.PREEMPTED, Reason.POD_LOST, Reason.NODE_LOST, Reason.HANG,
             Reason.OUT_OF_MEMORY, Reason.PREEMPTED, Reason.POD_LOST]  # fmt: skip
    for number, reason in enumerate(turns, 1):
        world.settle()
        world.run(f"demo-{number}", step=2)
        world.settle()
        world.fail(f"demo-{number}", reason)
        world.settle()
        world.pass_time(LONG)
    assert world.condition("Failed") == ("True", "PodLost")
    counts = world.status.retries
    assert counts is not None
    assert (counts.infrastructure, counts.disruption, counts.out_of_memory) == (4, 3, 1)


def test_the_list_of_attempts_is_bounded_and_the_counts_are_not_cut_with_it() -> None:
    world = World({"runPolicy.retries": {"infrastructure": 2}})
    world.settle()
    for number in range(1, 31):
        world.run(f"demo-{number}", step=1)
        world.settle()
        world.fail(f"demo-{number}", Reason.HANG if number in (1, 2) else Reason.PREEMPTED)
        world.settle()
        world.pass_time(LONG)
        world.settle()
    assert [each[0] for each in world.attempts] == list(range(16, 32))
    # The two hangs are no longer in the list, and still the third is one too many.
    world.run("demo-31", step=1)
    world.settle()
    world.fail("demo-31", Reason.HANG)
    world.settle()
    assert world.condition("Failed") == ("True", "Hang")


# -- pauses --------------------------------------------------------------------------------------


def test_pauses_double_up_to_six_minutes() -> None:
    assert [retries.pause(n) for n in range(8)] == [0, 10, 20, 40, 80, 160, 320, 360]
    assert retries.pause(10**9) == 360


def test_the_next_attempt_is_made_after_the_pause_and_not_before() -> None:
    world = ended(Reason.STORAGE_UNAVAILABLE)
    assert world.wake_after == 10
    assert "attempt 1 ended (StorageUnavailable): what happened" in world.message("Running")
    assert "attempt 2 begins after 2026-01-01T00:00:10Z" in world.message("Running")
    assert world.status.state == "Retrying"
    status = world.status
    world.pass_time(9)
    world.settle()
    # Waiting costs no write.
    assert (world.status, world.wake_after, len(world.created)) == (status, 1, 1)
    world.pass_time(1)
    world.settle()
    assert [each.attempt for each in world.created] == [1, 2]
    assert world.attempts == [(1, "Failed", "StorageUnavailable"), (2, "Pending", None)]


def test_an_attempt_that_made_progress_is_followed_at_once_after_a_disruption() -> None:
    world = World()
    world.settle()
    world.run("demo-1", step=4)
    world.settle()
    world.fail("demo-1", Reason.PREEMPTED)
    world.settle()
    assert [each.attempt for each in world.created] == [1, 2]


def test_failures_in_a_row_are_paused_for_longer_and_progress_ends_the_row() -> None:
    world = World({"runPolicy": {"retries": {"infrastructure": 9}}})
    world.settle()
    pauses = []
    for number, step in enumerate([None, None, None, 4, None], 1):
        if step:
            world.run(f"demo-{number}", step=step)
            world.settle()
        world.fail(f"demo-{number}", Reason.STORAGE_UNAVAILABLE)
        world.settle()
        pauses.append(world.wake_after)
        world.pass_time(world.wake_after or 0)
        world.settle()
    assert pauses == [10, 20, 40, 10, 10]
    assert world.status.retries
    assert world.status.retries.infrastructure == 5


def test_progress_is_counted_from_where_the_attempt_began() -> None:
    from finetune_api.v1alpha1.status import CheckpointStatus

    world = World()
    world.settle()
    world.run("demo-1", step=8, resumed=CheckpointStatus(step=8, uri="s3://b/c"))
    world.settle()
    [attempt] = world.status.attempts or ()
    assert (attempt.start_step, attempt.checkpoint) == (8, "s3://b/c")
    world.fail("demo-1", Reason.PREEMPTED)
    world.settle()
    assert world.status.retries is not None
    assert world.status.retries.without_progress == 1


def test_the_jobs_of_attempts_that_are_no_longer_listed_are_removed() -> None:
    """A job on spot machines must not leave a thousand Jobs and pods behind."""
    world = World()
    assert fail_until_final(world, Reason.PREEMPTED, step=1, most=30) == 30
    listed = [f"demo-{number}" for number, _, _ in world.attempts]
    assert list(world.jobs) == listed
    assert list(world.pods) == listed[:-1]


# -- the ledger ----------------------------------------------------------------------------------


def test_the_ledger_tells_of_every_attempt() -> None:
    world = World()
    world.settle()
    world.run("demo-1", step=7)
    world.settle()
    world.pass_time(60)
    world.fail("demo-1", Reason.POD_LOST)
    world.settle()
    [attempt] = world.status.attempts or ()
    found = (attempt.job, attempt.node, attempt.exit_code, attempt.end_step, attempt.end_time)
    assert found == ("demo-1", "node-0", 75, 7, "2026-01-01T00:01:00Z")


def test_an_attempt_does_not_inherit_the_progress_of_the_one_before() -> None:
    world = ended(Reason.PREEMPTED)
    world.pass_time(LONG)
    world.settle()
    world.run("demo-2")
    world.settle()
    assert world.status.progress is None


def test_each_retry_is_told_once() -> None:
    world = World({"runPolicy.retries": {"infrastructure": 1}})
    fail_until_final(world, Reason.HANG)
    told = [(each.reason.value, each.attempt, each.warning) for each in world.notices]
    assert told == [
        ("JobCreated", 1, False), ("Hang", 1, True), ("JobCreated", 2, False), ("Hang", 2, True),
    ]  # fmt: skip


@pytest.mark.parametrize("lives", range(1, 9))
def test_an_operator_that_dies_after_any_write_counts_the_same(lives: int) -> None:
    world = World()
    world.settle(lives)
    world.settle()
    world.run("demo-1", step=2)
    world.settle(lives)
    world.fail("demo-1", Reason.HANG)
    world.settle(lives)
    world.settle()
    world.pass_time(LONG)
    world.settle(lives)
    world.settle()
    assert [each.attempt for each in world.created] == [1, 2]
    assert world.status.retries is not None
    assert world.status.retries.infrastructure == 1
