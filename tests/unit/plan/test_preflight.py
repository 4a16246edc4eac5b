"""The preflight: before the trainers, once, without a GPU; what it finds decides whether they come."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import FineTuneJobStatus, Progress
from finetune_operator.observe.facts import ChildJob, Facts, Pod, Role, Tail, is_final
from finetune_operator.plan.decide import decide
from finetune_operator.plan.decision import Decision
from support.cluster_objects import (
    CHECKED,
    PUBLISHED,
    RUNNING,
    child,
    failed_report,
    job,
    pod,
    preflight,
    preflight_pod,
    seen_again,
    terminated,
    waiting,
)

NOW = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
GPU: dict[str, Any] = {"resources.gpusPerNode": 1}
COMPLETE, FAILED = ("Complete", "CompletionsReached"), ("Failed", "BackoffLimitExceeded")
FOUND_GOOD = terminated(0, CHECKED.to_message(), "Completed")
PASSED = (preflight(COMPLETE), (preflight_pod(FOUND_GOOD),))


def facts(
    found: ChildJob | None = None,
    pods: tuple[Pod, ...] = (),
    status: dict[str, Any] | None = None,
    **changes: Any,
) -> Facts:
    return Facts(job(GPU | changes, status), preflight=found, preflight_pods=pods)


def conditions(status: FineTuneJobStatus | None) -> dict[str, tuple[str, str]]:
    assert status is not None
    return {c.type: (c.status, c.reason) for c in status.conditions or ()}


def verdict(situation: Facts, now: datetime = NOW) -> FineTuneJobStatus:
    """The status that a confirmed look leads to; an unconfirmed one asks for it."""
    assert decide(situation, now) == Decision(confirm=True)
    decision = decide(replace(situation, confirmed=True), now)
    assert decision.create is None
    assert decision.status is not None
    return decision.status


def after(situation: Facts, status: FineTuneJobStatus, **changes: Any) -> Facts:
    return seen_again(situation, job(GPU | changes, status.to_dict()))


def test_a_job_with_gpus_is_checked_before_anything_else_is_made() -> None:
    creation = decide(facts(), NOW).create
    assert creation is not None
    assert (creation.role, creation.attempt) == (Role.PREFLIGHT, 1)


def test_a_job_without_gpus_has_no_preflight() -> None:
    creation = decide(Facts(job()), NOW).create
    assert creation is not None
    assert creation.role is Role.TRAINER


def test_a_running_preflight_is_said_to_be_one_and_is_followed() -> None:
    decision = decide(facts(preflight(), (preflight_pod(RUNNING),)), NOW)
    assert decision.status is not None
    assert conditions(decision.status)["Running"] == ("False", "PreflightRunning")
    assert decision.status.state == "Preflight"
    [attempt] = decision.status.attempts or ()
    assert (attempt.number, attempt.job, attempt.state) == (1, "demo-1-preflight", "Pending")
    assert decision.follow is not None
    assert decision.follow.name == "demo-1-preflight-abcde"
    assert decision.create is None
    assert decision.notices == ()


def test_its_progress_is_shown() -> None:
    situation = facts(preflight(), (preflight_pod(RUNNING),))
    tail = Tail(progress=Progress(phase="PreparingData"))
    status = decide(replace(situation, tail=tail), NOW).status
    assert status is not None
    assert status.progress == Progress(phase="PreparingData")


@pytest.mark.parametrize(
    ("pods", "reason", "words"),
    [
        ((), "PreflightPending", ""),
        ((preflight_pod(),), "PreflightPending", ""),
        ((preflight_pod(waiting("ErrImagePull", "no such image")),), "ImagePullFailed", "no such"),
        ((preflight_pod(conditions=[{"type": "PodScheduled", "status": "False",
                                     "reason": "Unschedulable", "message": "0/3 nodes"}]),),
         "PodsPending", "0/3 nodes"),
    ],
    ids=["no pod", "new", "image", "unschedulable"],
)  # fmt: skip
def test_a_preflight_that_does_not_start_says_why(
    pods: tuple[Pod, ...], reason: str, words: str
) -> None:
    status = decide(facts(preflight(), pods), NOW).status
    assert status is not None
    [running] = [c for c in status.conditions or () if c.type == "Running"]
    assert running.reason == reason
    assert words in running.message
    assert status.state == "Starting"


def test_what_it_found_is_kept_and_then_the_trainers_are_made() -> None:
    situation = facts(*PASSED)
    status = verdict(situation)
    assert conditions(status)["InputChecked"] == ("True", "PreflightPassed")
    assert not is_final(status)
    assert (status.plan, status.resolved) == (CHECKED.plan, CHECKED.resolved)
    creation = decide(after(situation, status), NOW).create
    assert creation is not None
    assert (creation.role, creation.attempt) == (Role.TRAINER, 1)


def test_the_verdict_is_looked_at_again_at_once() -> None:
    decision = decide(replace(facts(*PASSED), confirmed=True), NOW)
    assert decision.wake_after == 0
    assert [(n.reason, n.warning) for n in decision.notices] == [(Reason.PREFLIGHT_PASSED, False)]


def test_a_preflight_that_passed_is_not_run_again_whatever_becomes_of_its_job() -> None:
    status = verdict(facts(*PASSED))
    for found in (None, preflight(FAILED), preflight(ownerReferences=[])):
        creation = decide(after(facts(found), status), NOW).create
        assert creation is not None
        assert creation.role is Role.TRAINER


def test_the_trainers_are_the_same_attempt_and_keep_what_was_found() -> None:
    situation = facts(*PASSED)
    passed = after(situation, verdict(situation))
    running = replace(passed, child=child(), pods=(pod(RUNNING),))
    decision = decide(running, LATER)
    status = decision.status
    assert status is not None
    [attempt] = status.attempts or ()
    assert (attempt.number, attempt.job, attempt.state) == (1, "demo-1", "Running")
    assert attempt.start_time == "2026-01-01T00:00:00Z"
    assert (status.plan, status.resolved) == (CHECKED.plan, CHECKED.resolved)
    assert conditions(status)["InputChecked"] == ("True", "PreflightPassed")
    assert conditions(status)["Running"] == ("True", "PodsRunning")
    assert [n.reason for n in decision.notices] == [Reason.JOB_CREATED]
    done = replace(running, child=child(COMPLETE), confirmed=True)
    done = replace(done, pods=(pod(terminated(0, PUBLISHED.to_message(), "Completed")),))
    final = decide(replace(after(done, status), confirmed=True), LATER).status
    assert final is not None
    assert final.state == "Complete"
    assert [each.job for each in final.attempts or ()] == ["demo-1"]


def test_bad_input_fails_the_job_with_its_reason_and_no_trainer_is_made() -> None:
    report = failed_report(Reason.DATA_INVALID, "a.jsonl line 17", "mend it")
    situation = facts(preflight(FAILED), (preflight_pod(report),))
    status = verdict(situation)
    assert status.failure is not None
    found = (status.failure.reason, status.failure.message, status.failure.hint)
    assert found == ("DataInvalid", "a.jsonl line 17", "mend it")
    [attempt] = status.attempts or ()
    assert (attempt.job, attempt.state, attempt.exit_code) == ("demo-1-preflight", "Failed", 65)
    assert decide(after(situation, status), LATER) == Decision()


@pytest.mark.parametrize(
    ("found", "pods", "now", "reason", "words"),
    [
        (preflight(COMPLETE), (), NOW, "InternalError", "no report"),
        (preflight(COMPLETE), (preflight_pod(terminated(0)),), NOW, "InternalError", "no report"),
        (preflight(FAILED), (preflight_pod(terminated(137, "", "OOMKilled")),), NOW, "OutOfMemory", "killed"),
        (preflight(("Failed", "DeadlineExceeded")), (), NOW, "DeadlineExceeded", "demo-1-preflight"),
    ],
    ids=["no pod", "no report", "killed", "deadline"],
)  # fmt: skip
def test_ends_of_a_preflight_that_another_try_cannot_mend_are_failures_too(
    found: ChildJob, pods: tuple[Pod, ...], now: datetime, reason: str, words: str
) -> None:
    status = verdict(facts(found, pods), now)
    assert conditions(status)["Failed"] == ("True", reason)
    assert status.failure is not None
    assert words in status.failure.message


@pytest.mark.parametrize(
    ("found", "pods", "now", "reason"),
    [
        (preflight(FAILED), (), NOW, "Preempted"),
        (preflight(FAILED), (preflight_pod(terminated(137)),), NOW, "PodLost"),
        (preflight(deletionTimestamp="2026-01-01T00:00:00Z"), (), NOW, "JobDeleted"),
        (preflight(), (preflight_pod(RUNNING, metadata={"deletionTimestamp": "2026-01-01T00:00:01Z"}),),
         LATER, "NodeLost"),
    ],
    ids=["pods gone", "killed", "deleted", "lost node"],
)  # fmt: skip
def test_a_preflight_that_is_disturbed_is_made_again(
    found: ChildJob, pods: tuple[Pod, ...], now: datetime, reason: str
) -> None:
    status = verdict(facts(found, pods), now)
    [attempt] = status.attempts or ()
    assert (attempt.job, attempt.state, attempt.reason) == ("demo-1-preflight", "Failed", reason)
    later = now + timedelta(hours=2)
    creation = decide(replace(after(facts(), status), confirmed=True), later).create
    assert creation is not None
    assert (creation.role, creation.attempt) == (Role.PREFLIGHT, 2)


def test_deleted_trainers_are_not_checked_anew() -> None:
    situation = facts(*PASSED)
    passed = after(situation, verdict(situation))
    counted = decide(replace(passed, child=child(), pods=(pod(),)), NOW).status
    assert counted is not None
    status = verdict(after(passed, counted))
    [attempt] = status.attempts or ()
    assert (attempt.job, attempt.reason) == ("demo-1", "JobDeleted")
    again = replace(after(passed, status), preflight=None, preflight_pods=(), confirmed=True)
    creation = decide(again, LATER).create
    assert creation is not None
    assert (creation.role, creation.attempt) == (Role.TRAINER, 2)


# -- somebody else's Jobs, suspension --------------------------------------------------------------


@pytest.mark.parametrize("which", ["child", "preflight"])
def test_a_job_of_somebody_else_is_a_conflict_before_anything_is_made(which: str) -> None:
    theirs = {"child": child, "preflight": preflight}[which](ownerReferences=[])
    situation = replace(facts(), **{which: theirs})
    status = verdict(situation)
    assert conditions(status)["Failed"] == ("True", "NameConflict")
    assert status.failure is not None
    assert theirs.name in status.failure.message


def test_the_preflight_of_a_deleted_namesake_is_waited_for() -> None:
    owner = {"kind": "FineTuneJob", "name": "demo", "uid": "older", "controller": True}
    situation = replace(facts(preflight(ownerReferences=[owner])), confirmed=True)
    decision = decide(situation, NOW)
    assert (decision.create, decision.wake_after) == (None, 5)


def test_a_job_that_is_suspended_during_its_preflight_is_checked_again_when_it_is_released() -> (
    None
):
    situation = facts(preflight(), (preflight_pod(RUNNING),), suspend=True)
    status = verdict(situation)
    assert conditions(status)["Suspended"] == ("False", "Suspending")
    unwanted = replace(after(facts(), status, suspend=True), older=(preflight(),))
    assert decide(unwanted, NOW).stop == preflight()
    held = decide(after(facts(), status, suspend=True), NOW).status
    assert conditions(held)["Suspended"] == ("True", "SuspendedByUser")
    assert held is not None
    released = replace(after(facts(), held), confirmed=True)
    creation = decide(released, LATER).create
    assert creation is not None
    assert (creation.role, creation.attempt) == (Role.PREFLIGHT, 2)


def test_a_preflight_that_passed_before_the_suspension_is_not_repeated() -> None:
    ended = facts(*PASSED, suspend=True)
    passed = after(ended, verdict(ended), suspend=True)
    held = decide(passed, LATER)
    assert held.create is None
    assert conditions(held.status)["Suspended"] == ("True", "SuspendedByUser")
    assert held.status is not None
    released = decide(after(ended, held.status), LATER)
    assert released.create is not None
    assert released.create.role is Role.TRAINER


# -- properties ------------------------------------------------------------------------------------

COUNTED = {"attempts": [{"number": 1, "job": "demo-1-preflight", "state": "Pending"}]}
TRAINING = {"attempts": [{"number": 1, "job": "demo-1", "state": "Pending"}]}
CHECKED_INPUT = COUNTED | {
    "conditions": [{
        "type": "InputChecked", "status": "True", "reason": "PreflightPassed", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]
}  # fmt: skip
PREFLIGHTS = (
    None, preflight(), preflight(COMPLETE), preflight(FAILED), preflight(ownerReferences=[]),
    preflight(deletionTimestamp="2026-01-01T00:00:01Z"),
)  # fmt: skip
PREFLIGHT_PODS: tuple[tuple[Pod, ...], ...] = (
    (), (preflight_pod(RUNNING),), (preflight_pod(FOUND_GOOD),),
    (preflight_pod(failed_report(Reason.DATA_EMPTY)),),
)  # fmt: skip
CHILDREN = (None, child(), child(ownerReferences=[]))


def product() -> Iterator[Facts]:
    statuses = (None, COUNTED, CHECKED_INPUT, TRAINING)
    for suspend, status, found, pods, trainers, confirmed in itertools.product(
        (False, True), statuses, PREFLIGHTS, PREFLIGHT_PODS, CHILDREN, (False, True)
    ):
        yield replace(
            facts(found, pods, status, suspend=suspend), child=trainers, confirmed=confirmed
        )


def test_every_situation_leads_somewhere_and_settles() -> None:
    for situation in product():
        decision = decide(situation, NOW)
        assert decision.create or decision.confirm or decision.status, situation
        if decision.create or decision.status is None:
            continue
        suspend = situation.job.suspend
        again = decide(after(situation, decision.status, suspend=suspend), LATER)
        if is_final(decision.status):
            assert again == Decision(), situation
        elif again.status is not None and not again.confirm:
            # A second look may go on to the trainers, but never back, and it tells nothing twice.
            known = {n.reason for n in decision.notices}
            assert not known & {n.reason for n in again.notices}, situation


def test_trainers_with_gpus_are_made_only_after_a_preflight_passed() -> None:
    for situation in product():
        creation = decide(situation, NOW).create
        if creation is not None and creation.role is Role.TRAINER:
            checked = conditions(situation.job.status).get("InputChecked")
            assert checked == ("True", "PreflightPassed"), situation
        if creation is not None:
            assert situation.at(creation.role).child is None, situation
