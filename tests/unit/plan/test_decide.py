"""The state machine: one row a situation, and properties over the product of situations."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import FineTuneJobStatus, Progress, Resolved
from finetune_operator.observe.facts import Facts, Pod, Tail, is_final
from finetune_operator.plan.decide import decide
from finetune_operator.plan.decision import Decision
from support.cluster_objects import (
    JOB_UID,
    PUBLISHED,
    RUNNING,
    UID,
    child,
    failed_report,
    job,
    pod,
    seen_again,
    terminated,
    waiting,
)

NOW = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
COMPLETE, FAILED = ("Complete", "CompletionsReached"), ("Failed", "BackoffLimitExceeded")
SUCCEEDED = terminated(0, PUBLISHED.to_message(), "Completed")


def condition(status: FineTuneJobStatus | None, kind: str) -> tuple[str, str] | None:
    found = {c.type: (c.status, c.reason) for c in (status.conditions or ())} if status else {}
    return found.get(kind)


def verdict(facts: Facts, now: datetime = NOW) -> Decision:
    """The final decision: facts are confirmed only after it was asked for."""
    first = decide(facts, now)
    assert first.confirm
    assert first.status is None
    assert not first.notices
    return decide(replace(facts, confirmed=True), now)


def under_way(status: dict[str, Any] | None = None, **changes: Any) -> Facts:
    return Facts(job(changes, status), child(), (pod(RUNNING),))


# -- before an attempt -----------------------------------------------------------------------------


def test_a_new_job_gets_its_first_attempt() -> None:
    decision = decide(Facts(job()), NOW)
    assert decision.create is not None
    assert decision.create.attempt == 1
    assert decision.status is None


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"training.seed": "x"}, "InvalidSpec", ["training.seed"]),
        ({"model.source": "file:///m"}, "InvalidSpec", ["spec.model.source", "laptop only"]),
        ({"output.uri": "file:///o"}, "InvalidSpec", ["spec.output.uri"]),
        ({"data.train": [{"source": "file:///d"}]}, "InvalidSpec", ["spec.data.train[0].source"]),
        (
            {"training.precision": "Float16", "training.extra": {"a": 1}},
            "NotImplemented",
            ["spec.training.precision", "spec.training.extra"],
        ),
    ],
    ids=["invalid", "local model", "local output", "local data", "not implemented"],
)
def test_a_spec_that_cannot_be_carried_out_fails_at_once(
    changes: dict[str, Any], reason: str, words: list[str]
) -> None:
    decision = decide(Facts(job(changes)), NOW)
    assert decision.create is None
    status = decision.status
    assert status is not None
    assert status.failure is not None
    assert condition(status, "Accepted") == ("False", reason)
    assert condition(status, "Failed") == ("True", reason)
    assert status.state == "Failed"
    assert all(word in status.failure.message for word in words)
    assert status.failure.hint
    assert [(n.reason.value, n.warning) for n in decision.notices] == [(reason, True)]


def test_a_suspended_job_creates_nothing_and_goes_on_when_released() -> None:
    decision = decide(Facts(job({"suspend": True})), NOW)
    assert decision.create is None
    assert condition(decision.status, "Suspended") == ("True", "SuspendedByUser")
    assert decision.status is not None
    assert decision.status.state == "Suspended"
    released = job({}, decision.status.to_dict(), generation=2)
    assert decide(Facts(released), LATER).create is not None


def test_an_obstacle_is_told_while_creation_is_tried_again() -> None:
    decision = decide(Facts(job(), obstacle="exceeded quota: q"), NOW)
    assert decision.create is not None
    assert decision.status is not None
    [running] = [c for c in decision.status.conditions or () if c.type == "Running"]
    assert (running.status, running.reason) == ("False", "PodsPending")
    assert "exceeded quota: q" in running.message


# -- somebody else's Job ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "owners", [[], [{"kind": "CronJob", "name": "c", "uid": "u", "controller": True}]]
)
def test_a_job_of_somebody_else_is_a_conflict_and_is_not_adopted(owners: list[Any]) -> None:
    decision = verdict(Facts(job(), child(ownerReferences=owners)))
    assert condition(decision.status, "Failed") == ("True", "NameConflict")
    assert condition(decision.status, "Accepted") == ("True", "SpecAccepted")
    assert decision.create is None
    assert decision.status is not None
    assert decision.status.attempts is None


def test_the_job_of_a_deleted_namesake_is_waited_for() -> None:
    owner = {"kind": "FineTuneJob", "name": "demo", "uid": "older", "controller": True}
    facts = Facts(job(), child(ownerReferences=[owner]), confirmed=True)
    decision = decide(facts, NOW)
    assert decision.create is None
    assert decision.wake_after
    assert condition(decision.status, "Running") == ("False", "PodsPending")
    assert condition(decision.status, "Failed") is None


def test_a_foreign_job_does_not_matter_to_a_suspended_job() -> None:
    decision = decide(Facts(job({"suspend": True}), child(ownerReferences=[])), NOW)
    assert condition(decision.status, "Suspended") == ("True", "SuspendedByUser")


# -- an attempt under way --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pods", "obstacle", "expected", "words"),
    [
        ([], None, ("False", "JobCreated"), ""),
        ([], "FailedCreate: exceeded quota", ("False", "PodsPending"), "exceeded quota"),
        ([pod()], None, ("False", "JobCreated"), ""),
        (
            [pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                              "message": "0/3 nodes are available"}])],
            None, ("False", "PodsPending"), "0/3 nodes are available",
        ),
        ([pod(waiting("ErrImagePull", "not found"))], None, ("False", "ImagePullFailed"), "not found"),
        ([pod(waiting("CreateContainerConfigError", 'secret "s" not found'))], None,
         ("False", "PodConfigError"), 'secret "s" not found'),
        ([pod(waiting("ContainerCreating"))], 'FailedMount: secret "s" not found',
         ("False", "PodConfigError"), 'secret "s" not found'),
        ([pod(RUNNING)], "FailedMount: long ago", ("True", "PodsRunning"), ""),
        ([pod(RUNNING, metadata={"deletionTimestamp": "2026-01-01T00:00:30Z"})], None,
         ("False", "PodsPending"), "told to stop"),
    ],
    ids=["no pod", "no pod allowed", "new pod", "unschedulable", "image", "config", "mount",
         "running", "told to stop"],
)  # fmt: skip
def test_running_says_what_the_pods_do(
    pods: list[Pod], obstacle: str | None, expected: tuple[str, str], words: str
) -> None:
    decision = decide(Facts(job(), child(), tuple(pods), obstacle=obstacle), NOW)
    assert decision.status is not None
    [running] = [c for c in decision.status.conditions or () if c.type == "Running"]
    assert (running.status, running.reason) == expected
    assert words in running.message
    assert not is_final(decision.status)
    assert decision.create is None


def test_all_nodes_must_run() -> None:
    facts = Facts(job({"resources.nodes": 2}), child(), (pod(RUNNING), pod(index=1)))
    assert condition(decide(facts, NOW).status, "Running") == ("False", "JobCreated")
    both = replace(facts, pods=(pod(RUNNING), pod(RUNNING, index=1)))
    assert condition(decide(both, NOW).status, "Running") == ("True", "PodsRunning")


def test_the_first_status_counts_the_attempt_and_is_announced_once() -> None:
    decision = decide(under_way(), NOW)
    status = decision.status
    assert status is not None
    assert status.attempts is not None
    assert (status.attempts[0].number, status.attempts[0].job) == (1, "demo-1")
    assert status.start_time == "2026-01-01T00:00:00Z"
    assert status.spec_digest
    assert [n.reason for n in decision.notices] == [Reason.JOB_CREATED]
    again = decide(replace(under_way(), job=job({}, status.to_dict())), LATER)
    assert again.notices == ()
    assert again.status == status


def test_only_the_running_pod_of_rank_0_is_followed() -> None:
    decision = decide(under_way(), NOW)
    assert decision.follow is not None
    assert decision.follow.index == 0
    assert decide(Facts(job(), child(), (pod(),)), NOW).follow is None


def test_the_log_becomes_progress_and_stays_when_it_scrolls_away() -> None:
    tail = Tail(
        progress=Progress(phase="Training", step=3),
        resolved=(Resolved(field="a", value="1", why="w"), Resolved(field="a", value="2", why="w")),
    )
    status = decide(replace(under_way(), tail=tail), NOW).status
    assert status is not None
    assert status.progress == tail.progress
    # A second entry of the same field would be refused by the API server.
    assert [r.value for r in status.resolved or ()] == ["2"]
    kept = decide(replace(under_way(), job=job({}, status.to_dict())), LATER).status
    assert kept is not None
    assert (kept.progress, kept.resolved) == (status.progress, status.resolved)


def test_a_straggler_is_told_once_as_a_warning_and_stops_nothing() -> None:
    begun = decide(under_way(), NOW).status
    assert begun is not None
    slow = Tail(progress=Progress(phase="Training", step=3, straggler="process 1 is slow"))
    facts = replace(under_way(), job=job({}, begun.to_dict()), tail=slow)
    decision = decide(facts, NOW)
    told = [each for each in decision.notices if each.reason is Reason.STRAGGLER]
    assert [(each.message, each.warning) for each in told] == [("process 1 is slow", True)]
    assert decision.stop is None
    assert decision.status is not None
    again = decide(replace(facts, job=job({}, decision.status.to_dict())), LATER)
    assert again.notices == ()


def test_a_pod_that_waits_without_a_word_is_asked_about_after_a_while() -> None:
    facts = Facts(job(), child(), (pod(waiting("ContainerCreating")),))
    early = decide(facts, NOW)
    assert early.ask is None
    assert early.wake_after
    late = decide(facts, LATER).ask
    assert late is not None
    assert (late.kind, late.uid) == ("Pod", "pod-0")
    without_pod = decide(Facts(job(), child()), LATER).ask
    assert without_pod is not None
    assert (without_pod.kind, without_pod.uid) == ("Job", JOB_UID)


def test_image_pull_messages_do_not_alternate() -> None:
    pulling = Facts(job(), child(), (pod(waiting("ErrImagePull", "manifest unknown")),))
    status = decide(pulling, NOW).status
    assert status is not None
    backing_off = (pod(waiting("ImagePullBackOff", "Back-off pulling image")),)
    soon = NOW + timedelta(minutes=1)
    again = decide(Facts(job({}, status.to_dict()), child(), backing_off), soon).status
    assert again == status


def test_an_ended_pod_leaves_running_as_it_was_until_its_job_ends() -> None:
    running = decide(under_way(), NOW).status
    assert running is not None
    ended = Facts(job({}, running.to_dict()), child(), (pod(SUCCEEDED),))
    assert condition(decide(ended, LATER).status, "Running") == ("True", "PodsRunning")
    never_ran = Facts(job(), child(), (pod(SUCCEEDED),))
    assert condition(decide(never_ran, LATER).status, "Running") == ("False", "JobCreated")


# -- endings -------------------------------------------------------------------------------------


def test_a_job_with_a_published_output_is_complete() -> None:
    decision = verdict(Facts(job(), child(COMPLETE), (pod(SUCCEEDED),)))
    status = decision.status
    assert status is not None
    assert condition(status, "Complete") == ("True", "OutputPublished")
    assert condition(status, "OutputVerified") == ("True", "LogitsMatch")
    assert condition(status, "Running") == ("False", "Ended")
    assert condition(status, "Failed") is None
    assert (status.state, status.output) == ("Complete", PUBLISHED.output)
    assert status.completion_time == "2026-01-01T01:00:00Z"
    assert status.attempts is not None
    assert (status.attempts[0].state, status.attempts[0].exit_code) == ("Succeeded", 0)
    assert [(n.reason.value, n.warning) for n in decision.notices] == [("OutputPublished", False)]


@pytest.mark.parametrize(
    "pods",
    [
        (),
        (pod(terminated(0, "", "Completed")),),
        (pod(terminated(0, "not a report", "Completed")),),
        (pod(terminated(0, PUBLISHED.model_copy(update={"output": None}).to_message())),),
        (pod(failed_report(Reason.DIVERGED)),),
    ],
    ids=["no pod", "no message", "no report", "no output", "reports failure"],
)
def test_success_without_a_proof_is_a_failure(pods: tuple[Pod, ...]) -> None:
    decision = verdict(Facts(job(), child(COMPLETE), pods))
    assert condition(decision.status, "Failed") == ("True", "InternalError")
    assert condition(decision.status, "Complete") is None


def test_a_failure_says_reason_message_hint_and_log() -> None:
    facts = Facts(job(), child(FAILED), (pod(failed_report(Reason.DATA_EMPTY, "no rows")),))
    decision = verdict(replace(facts, tail=Tail(lines=("\x1b[31mlast words\x1b[0m",))))
    status = decision.status
    assert status is not None
    assert status.failure is not None
    failure = status.failure
    assert (failure.reason, failure.message, failure.hint) == ("DataEmpty", "no rows", "h")
    assert failure.log_tail == "last words"
    assert condition(status, "Failed") == ("True", "DataEmpty")
    assert status.attempts is not None
    assert (status.attempts[0].state, status.attempts[0].exit_code) == ("Failed", 65)
    assert [(n.reason.value, n.warning) for n in decision.notices] == [("DataEmpty", True)]


def test_a_deleted_job_is_an_attempt_that_ended_and_not_the_end_of_the_job() -> None:
    counted = decide(under_way(), NOW).status
    assert counted is not None
    decision = verdict(Facts(job({}, counted.to_dict())))
    assert condition(decision.status, "Failed") is None
    assert condition(decision.status, "Running") == ("False", "RetryWaiting")
    assert decision.create is None
    assert decision.status is not None
    assert decision.status.attempts is not None
    assert (decision.status.attempts[0].state, decision.status.attempts[0].reason) == (
        "Failed", "JobDeleted",
    )  # fmt: skip


def test_a_job_that_is_being_deleted_counts_as_deleted() -> None:
    facts = Facts(job(), child(deletionTimestamp="2026-01-01T00:00:01Z"), (pod(RUNNING),))
    [attempt] = verdict(facts).status.attempts or ()  # type: ignore[union-attr]
    assert (attempt.state, attempt.reason) == ("Failed", "JobDeleted")


def test_a_pod_on_a_dead_node_is_lost_a_minute_after_its_grace_period() -> None:
    stuck = pod(RUNNING, metadata={"deletionTimestamp": "2026-01-01T00:00:30Z"})
    facts = Facts(job(), child(), (stuck,))
    early = decide(facts, NOW)
    assert not early.confirm
    assert early.wake_after is not None
    late = NOW + timedelta(seconds=early.wake_after)
    [attempt] = verdict(facts, late).status.attempts or ()  # type: ignore[union-attr]
    assert (attempt.state, attempt.reason, attempt.node) == ("Failed", "NodeLost", "node-0")


# -- properties ------------------------------------------------------------------------------------

COUNTED = {"attempts": [{"number": 1, "job": "demo-1", "state": "Pending"}]}
STATUSES: tuple[dict[str, Any] | None, ...] = (None, COUNTED)
CHILDREN = (
    None, child(), child(COMPLETE), child(FAILED), child(("Failed", "DeadlineExceeded")),
    child(deletionTimestamp="2026-01-01T00:00:01Z"), child(ownerReferences=[]),
)  # fmt: skip
PODS: tuple[tuple[Pod, ...], ...] = (
    (), (pod(),), (pod(RUNNING),), (pod(SUCCEEDED),), (pod(terminated(1)),), (pod(terminated(137)),),
    (pod(waiting("ImagePullBackOff")),), (pod(phase="Failed", reason="Evicted", message="disk"),),
    (pod(RUNNING, metadata={"deletionTimestamp": "2025-01-01T00:00:00Z"}),),
)  # fmt: skip


def product() -> Iterator[Facts]:
    specs = ({}, {"suspend": True}, {"training.precision": "Float16"})
    for changes, status, found, pods, confirmed, obstacle in itertools.product(
        specs, STATUSES, CHILDREN, PODS, (False, True), (None, "an obstacle")
    ):
        yield Facts(job(changes, status), found, pods, obstacle=obstacle, confirmed=confirmed)


def test_every_situation_leads_somewhere_and_settles() -> None:
    """The same facts with the status that was decided on give the same status, and no event."""
    for facts in product():
        decision = decide(facts, NOW)
        assert decision.create or decision.confirm or decision.status, facts
        if decision.create or decision.status is None:
            continue
        FineTuneJobStatus.model_validate(decision.status.to_dict())
        after = seen_again(facts, job(dict(_changes(facts)), decision.status.to_dict()))
        again = decide(after, LATER)
        assert not set(again.notices) & set(decision.notices), facts
        if is_final(decision.status):
            assert again == Decision(), facts
        elif after.child is not None and not again.confirm:
            assert again.status == decision.status, facts


def test_final_verdicts_about_children_are_taken_from_confirmed_facts_only() -> None:
    for facts in product():
        status = decide(facts, NOW).status
        if status is not None and is_final(status) and not facts.confirmed:
            assert condition(status, "Failed") == ("True", "NotImplemented"), facts


def test_no_attempt_is_created_beside_another_or_after_one() -> None:
    for facts in product():
        if decide(facts, NOW).create:
            assert facts.child is None, facts
            assert not facts.job.status.attempts, facts
            assert not facts.job.suspend, facts


@pytest.mark.parametrize("final", ["Complete", "Failed"])
def test_a_final_status_is_never_left(final: str) -> None:
    ended = {
        "conditions": [{
            "type": final, "status": "True", "reason": "R", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]
    }  # fmt: skip
    for facts in product():
        assert decide(replace(facts, job=job({}, ended)), NOW) == Decision()


def test_a_condition_that_does_not_hold_is_not_final() -> None:
    not_failed = {
        "conditions": [{
            "type": "Failed", "status": "False", "reason": "R", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]
    }  # fmt: skip
    assert decide(Facts(job({}, not_failed)), NOW).create is not None


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    for facts in product():
        going = job({}, None, deletionTimestamp="2026-01-01T00:00:00Z", uid=UID)
        assert decide(replace(facts, job=going), NOW) == Decision()


def _changes(facts: Facts) -> Iterator[tuple[str, Any]]:
    if facts.job.suspend:
        yield "suspend", True
    if "training" in facts.job.spec:
        yield "training.precision", "Float16"
