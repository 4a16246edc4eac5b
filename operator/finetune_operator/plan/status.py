"""Puts a status together: conditions with stable times, the display word, the bounds.

Called by `plan.decide` and `plan.endings`. What is here never depends on how often it is called: the
same facts give the same status, so that an unchanged job costs no write.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_api.v1alpha1.status import (
    Attempt,
    CheckpointStatus,
    Condition,
    FineTuneJobStatus,
    Resolved,
)
from finetune_operator.observe.facts import Facts, JobFacts, Pod
from finetune_operator.observe.fields import time_text
from finetune_operator.observe.progress import MAX_RESOLVED, moved, report_of
from finetune_operator.observe.text import one_line

MAX_STATUS_BYTES = 16 * 1024
MAX_ATTEMPTS = 16
LARGEST_DIVISOR = 16
HALVED_BATCH = "runPolicy.retries.outOfMemory"
SHORT_TEXT = 120
# Display words for reasons of Running=False.
WORDS: dict[str, str] = {
    Reason.PREFLIGHT_RUNNING: "Preflight",
    Reason.WAITING_FOR_QUEUE: "Queued",
    Reason.RETRY_WAITING: "Retrying",
    Reason.HANG: "Retrying",
    Reason.NODE_LOST: "Retrying",
}


@dataclass(frozen=True)
class Statement:
    """A condition without its times."""

    type: ConditionType
    holds: bool
    reason: Reason
    message: str = ""

    @property
    def text(self) -> str:
        """The message, or the meaning of the reason."""
        return one_line(self.message or self.reason.meaning.text)


def accepted() -> Statement:
    """That the spec can be carried out."""
    return Statement(ConditionType.ACCEPTED, holds=True, reason=Reason.SPEC_ACCEPTED)


def not_suspended() -> Statement:
    """That the user wants it to go on."""
    return Statement(ConditionType.SUSPENDED, holds=False, reason=Reason.NOT_SUSPENDED)


def build(
    job: JobFacts, statements: Iterable[Statement], now: datetime, **fields: object
) -> FineTuneJobStatus:
    """The job's status with these conditions and fields; all else stays as it is."""
    conditions = merged(job.status.conditions or (), statements, job.generation, now)
    update = {
        "conditions": conditions,
        "state": state_word(conditions),
        "observed_generation": job.generation,
        **fields,
    }
    return bounded(job.status.model_copy(update=update))


def merged(
    old: Iterable[Condition], statements: Iterable[Statement], generation: int, now: datetime
) -> list[Condition]:
    """The conditions: a transition time changes with the status only."""
    before = {condition.type: condition for condition in old}
    after = {statement.type.value: statement for statement in statements}
    kept = {kind: condition for kind, condition in before.items() if kind not in after}
    made = {
        kind: _condition(statement, before.get(kind), generation, now)
        for kind, statement in after.items()
    }
    found = kept | made
    return [found[kind.value] for kind in ConditionType if kind.value in found]


def _condition(
    statement: Statement, old: Condition | None, generation: int, now: datetime
) -> Condition:
    status = "True" if statement.holds else "False"
    same = old is not None and old.status == status
    return Condition(
        type=statement.type.value,
        status="True" if statement.holds else "False",
        reason=statement.reason.value,
        message=statement.text,
        last_transition_time=old.last_transition_time if old and same else time_text(now),
        observed_generation=generation,
    )


def state_word(conditions: Iterable[Condition]) -> str:
    """One word for people; programs read the conditions."""
    found = {condition.type: condition for condition in conditions}
    for final in (ConditionType.COMPLETE, ConditionType.FAILED, ConditionType.SUSPENDED):
        if final in found and found[final].status == "True":
            return final.value
    suspended = found.get(ConditionType.SUSPENDED)
    if suspended is not None and suspended.reason == Reason.SUSPENDING:
        return "Suspending"
    accepted = found.get(ConditionType.ACCEPTED)
    if accepted is not None and accepted.reason == Reason.WAITING_FOR_JOB:
        return "Waiting"
    running = found.get(ConditionType.RUNNING)
    if running is None:
        return "Pending"
    if running.reason in WORDS:
        return WORDS[running.reason]
    return "Running" if running.status == "True" else "Starting"


def same(one: FineTuneJobStatus, other: FineTuneJobStatus) -> bool:
    """Whether two statuses say the same; the order in lists that have keys does not count."""
    return _ordered(one) == _ordered(other)


def _ordered(status: FineTuneJobStatus) -> dict[str, Any]:
    content = status.to_dict()
    for name, key in (("conditions", "type"), ("resolved", "field"), ("attempts", "number")):
        if name in content:
            content[name] = sorted(content[name], key=lambda item: item[key])
    return content


def with_attempt(status: FineTuneJobStatus, attempt: Attempt) -> list[Attempt]:
    """The newest attempts with this one in its place; what is dropped stays counted in `retries`."""
    others = [each for each in status.attempts or () if each.number != attempt.number]
    return sorted([*others, attempt], key=lambda each: each.number)[-MAX_ATTEMPTS:]


def reported(facts: Facts, now: datetime) -> dict[str, Any]:
    """Fields that come from the trainer's log; what has scrolled away stays as it was.

    Progress is that of the present attempt: a new one does not inherit it.
    """
    job, status, tail = facts.job, facts.job.status, facts.tail
    known = None if job.between_attempts and facts.child is not None else status.progress
    progress = tail.progress or known
    since = time_text(now) if moved(known, progress) else status.progress_time
    return {
        "progress": progress,
        "progress_time": since if progress else None,
        "resolved": with_halved_batch(distinct(tail.resolved) or status.resolved, status),
        "plan": tail.plan or status.plan,
        "checkpoint": newest_checkpoint(
            status.checkpoint, tail.resumed, tail.checkpoint, *saved_last(facts.pods)
        ),
    }


def saved_last(pods: Iterable[Pod]) -> Iterable[CheckpointStatus | None]:
    """The checkpoints of pods that were told to stop, and are gone before their Job has ended."""
    reports = (report_of(pod.ended) for pod in pods if pod.deletion is not None)
    return (report.checkpoint for report in reports if report)


def newest_checkpoint(*found: CheckpointStatus | None) -> CheckpointStatus | None:
    """The one of the latest step; of two of the same step the later in the row."""
    newest = None
    for each in found:
        if each is not None and (newest is None or each.step >= newest.step):
            newest = each
    return newest


def with_halved_batch(
    resolved: list[Resolved] | None, status: FineTuneJobStatus
) -> list[Resolved] | None:
    """The resolved values with what became of the micro-batch after memory ran out."""
    divisor = micro_batch_divisor(status)
    if divisor == 1:
        return resolved
    own = Resolved(
        field=HALVED_BATCH,
        value=f"micro-batch / {divisor}",
        why="memory ran out in a former attempt: the micro-batch is smaller and more are accumulated, "
        "so that an optimiser step has the same rows",
    )
    others = [each for each in resolved or () if each.field != HALVED_BATCH]
    return [*others[: MAX_RESOLVED - 1], own]


def micro_batch_divisor(status: FineTuneJobStatus) -> int:
    """By how much the micro-batch is made smaller: doubled each time that memory ran out."""
    failed = status.retries.out_of_memory if status.retries else 0
    return int(min(2**failed, LARGEST_DIVISOR))


def distinct(resolved: Iterable[Resolved] | None) -> list[Resolved] | None:
    """The resolved values, one a field, as the list's key demands."""
    return list({each.field: each for each in resolved or ()}.values()) or None


def bounded(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status within 16 KiB: explanations are shortened first, then left out."""
    for smaller in (_same, _short_reasons, _short_ledger, _without_resolved, _without_log):
        status = smaller(status)
        if len(json.dumps(status.to_dict(), ensure_ascii=False).encode()) <= MAX_STATUS_BYTES:
            break
    return status


def _same(status: FineTuneJobStatus) -> FineTuneJobStatus:
    return status


def _short_reasons(status: FineTuneJobStatus) -> FineTuneJobStatus:
    resolved = [
        each.model_copy(update={"why": one_line(each.why, SHORT_TEXT)})
        for each in status.resolved or ()
    ]
    return status.model_copy(update={"resolved": resolved or None})


def _short_ledger(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """Without where former attempts began from: the step stays, and the newest checkpoint."""
    attempts = list(status.attempts or ())
    older = [each.model_copy(update={"checkpoint": None}) for each in attempts[:-1]]
    return status.model_copy(update={"attempts": [*older, *attempts[-1:]] or None})


def _without_resolved(status: FineTuneJobStatus) -> FineTuneJobStatus:
    return status.model_copy(update={"resolved": None})


def _without_log(status: FineTuneJobStatus) -> FineTuneJobStatus:
    if status.failure is None:
        return status
    failure = status.failure.model_copy(update={"log_tail": None})
    return status.model_copy(update={"failure": failure})
