"""Conditions with stable times, bounds, comparison."""

import json
from datetime import UTC, datetime

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_api.v1alpha1.status import Attempt, Failure, FineTuneJobStatus, Resolved
from finetune_operator.plan.status import (
    MAX_STATUS_BYTES,
    Statement,
    accepted,
    bounded,
    build,
    merged,
    same,
)
from support.cluster_objects import job

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = datetime(2026, 1, 2, tzinfo=UTC)
PENDING = Statement(ConditionType.RUNNING, False, Reason.JOB_CREATED)
UNSCHEDULABLE = Statement(ConditionType.RUNNING, False, Reason.PODS_PENDING, "no node")
RUNNING = Statement(ConditionType.RUNNING, True, Reason.PODS_RUNNING)


def test_a_transition_time_changes_with_the_status_only() -> None:
    old = merged((), [PENDING], 1, FIRST)
    [same_status] = merged(old, [UNSCHEDULABLE], 2, SECOND)
    assert same_status.last_transition_time == "2026-01-01T00:00:00Z"
    assert (same_status.reason, same_status.observed_generation) == ("PodsPending", 2)
    [changed] = merged(old, [RUNNING], 2, SECOND)
    assert changed.last_transition_time == "2026-01-02T00:00:00Z"


def test_conditions_that_nobody_speaks_of_stay() -> None:
    old = merged((), [accepted(), PENDING], 1, FIRST)
    kinds = [c.type for c in merged(old, [RUNNING], 1, SECOND)]
    assert kinds == ["Accepted", "Running"]


def test_a_large_status_is_cut_to_its_bound_and_keeps_what_matters() -> None:
    resolved = [Resolved(field=f"f{n}", value="v" * 256, why="w" * 2048) for n in range(64)]
    failure = Failure(reason="R", message="m", log_tail="é" * 4096)
    large = build(job(), [accepted()], FIRST, resolved=resolved, failure=failure)
    assert len(json.dumps(large.to_dict(), ensure_ascii=False).encode()) <= MAX_STATUS_BYTES
    assert large.failure is not None
    assert large.failure.message == "m"
    assert large.conditions
    moderate = [each.model_copy(update={"value": "v"}) for each in resolved]
    short = bounded(FineTuneJobStatus(resolved=moderate))
    assert short.resolved is not None
    assert len(short.resolved) == 64


def test_a_long_ledger_keeps_its_entries_and_gives_up_old_addresses() -> None:
    attempts = [
        Attempt(number=n, job=f"demo-{n}", state="Failed", reason="Preempted", start_step=n,
                checkpoint="s3://b/" + "c" * 2000)
        for n in range(1, 17)
    ]  # fmt: skip
    found = bounded(FineTuneJobStatus(attempts=attempts))
    assert len(json.dumps(found.to_dict(), ensure_ascii=False).encode()) <= MAX_STATUS_BYTES
    assert [each.start_step for each in found.attempts or ()] == list(range(1, 17))
    assert found.attempts is not None
    assert found.attempts[-1].checkpoint == attempts[-1].checkpoint


def test_the_order_of_keyed_lists_does_not_count() -> None:
    one = build(job(), [accepted(), RUNNING], FIRST)
    turned = one.model_copy(update={"conditions": list(reversed(one.conditions or []))})
    assert same(one, turned)
    assert not same(one, build(job(), [accepted(), PENDING], FIRST))
