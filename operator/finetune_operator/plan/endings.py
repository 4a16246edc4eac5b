"""The end of an attempt: the status and the event of a job that is complete, failed, refused or retried.

Called by `plan.decide`. A final status is written once and never changed.
"""

from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_api.v1alpha1.status import Attempt, Failure
from finetune_operator.observe.facts import Facts
from finetune_operator.observe.failures import Ending
from finetune_operator.observe.fields import time_text
from finetune_operator.observe.text import one_line, tail
from finetune_operator.plan import ledger, retries, status
from finetune_operator.plan.decision import Decision, Notice
from finetune_operator.plan.refusals import Refusal
from finetune_operator.plan.status import Statement, accepted


def refused(facts: Facts, refusal: Refusal, now: datetime) -> Decision:
    """A job whose spec is not carried out: nothing is created, or nothing more."""
    statements = [
        Statement(ConditionType.ACCEPTED, False, refusal.reason, refusal.message),
        Statement(ConditionType.FAILED, True, refusal.reason, refusal.message),
    ]
    failure = failed_because(refusal.reason, refusal.message, refusal.hint)
    fields = _final_fields(facts, Ending(refusal.reason, refusal.message), now)
    final = status.build(facts.job, statements, now, **fields | {"failure": failure})
    return Decision(status=final, notices=(_notice(refusal.reason, refusal.message, 1),))


def passed(facts: Facts, ending: Ending, now: datetime) -> Decision:
    """A job whose preflight found the input good: what it found stands, and its trainers come next.

    That it passed is written before anything is created, so that the preflight is not run again
    whatever becomes of its Job.
    """
    statements = [
        accepted(),
        Statement(ConditionType.INPUT_CHECKED, True, Reason.PREFLIGHT_PASSED, ending.message),
        Statement(ConditionType.RUNNING, False, Reason.PREFLIGHT_PASSED),
    ]
    found = _reported(facts, ending, now) | {"progress": None, "progress_time": None}
    if facts.child:
        attempt = ledger.entry(facts, facts.child)
        found["attempts"] = status.with_attempt(facts.job.status, attempt)
        found["start_time"] = facts.job.status.start_time or attempt.start_time
    written = status.build(facts.job, statements, now, **found)
    notice = Notice(Reason.PREFLIGHT_PASSED, ending.message, _number(facts))
    return Decision(status=written, notices=(notice,), wake_after=0)


def ended(facts: Facts, ending: Ending, now: datetime) -> Decision:
    """A job whose attempt ended: with an output, for good, or to be tried again.

    An attempt whose Job still runs is first said to have ended; its Job is deleted after that.
    """
    if ending.succeeded:
        return _complete(facts, ending, now)
    fields = _fields(facts, ending, now)
    attempt = fields["attempts"][-1]
    verdict = retries.verdict(facts.job, fields["retries"], attempt)
    runs = facts.child is not None and not (facts.child.finished or facts.child.deleting)
    if not verdict.again and not runs:
        return failed(facts, ending, now, spent=verdict.spent)
    if verdict.again and not runs:
        due = retries.due(attempt, verdict, now)
        running = retry_statement(attempt, ending.message, due)
    else:
        running = _no_longer_running(ending)
    written = status.build(facts.job, [accepted(), running], now, **fields)
    notice = _notice(ending.reason, ending.message, attempt.number)
    return Decision(status=written, notices=(notice,), wake_after=0)


def retry_statement(attempt: Attempt, message: str, due: datetime) -> Statement:
    """That the next attempt is waited for, and why."""
    text = (
        f"attempt {attempt.number} ended ({attempt.reason}): {message}; "
        f"attempt {attempt.number + 1} begins after {time_text(due)}"
    )
    return Statement(ConditionType.RUNNING, False, Reason.RETRY_WAITING, text)


def _complete(facts: Facts, ending: Ending, now: datetime) -> Decision:
    report = ending.report
    statements = [
        accepted(),
        _no_longer_running(ending),
        Statement(ConditionType.COMPLETE, True, Reason.OUTPUT_PUBLISHED, ending.message),
        Statement(ConditionType.OUTPUT_VERIFIED, True, Reason.LOGITS_MATCH),
    ]
    fields = _final_fields(facts, ending, now)
    fields |= {"output": report.output if report else None}
    final = status.build(facts.job, statements, now, **fields)
    notice = Notice(Reason.OUTPUT_PUBLISHED, ending.message, _number(facts))
    return Decision(status=final, notices=(notice,))


def failed(facts: Facts, ending: Ending, now: datetime, *, spent: str = "") -> Decision:
    """A job that ends with this failure, whose message says how many attempts there were.

    Args:
        facts: What is known.
        ending: How the last attempt ended.
        now: The time.
        spent: Why there is no further attempt although the failure may pass.
    """
    message = retries.with_attempts(ending.message, _number(facts), spent)
    statements = [
        accepted(),
        _no_longer_running(ending),
        Statement(ConditionType.FAILED, True, ending.reason, message),
    ]
    failure = failed_because(ending.reason, message, ending.hint, _log_tail(facts, ending))
    fields = _final_fields(facts, ending, now) | {"failure": failure}
    final = status.build(facts.job, statements, now, **fields)
    # Told under a number of its own, for the attempt's end may have been told before.
    notice = _notice(ending.reason, message, _number(facts) + (1 if _told(facts) else 0))
    return Decision(status=final, notices=(notice,))


def failed_because(
    reason: Reason, message: str, hint: str = "", log_tail: str | None = None
) -> Failure:
    """The `failure` block; without a hint of its own it takes that of the reason."""
    advice = one_line(hint or reason.meaning.hint) or None
    return Failure(reason=reason.value, message=one_line(message), hint=advice, log_tail=log_tail)


def _no_longer_running(ending: Ending) -> Statement:
    reason = Reason.ENDED if ending.succeeded else ending.reason
    return Statement(
        ConditionType.RUNNING, False, reason, "" if ending.succeeded else ending.message
    )


def _notice(reason: Reason, message: str, attempt: int) -> Notice:
    return Notice(reason, message, attempt, warning=True)


def _reported(facts: Facts, ending: Ending, now: datetime) -> dict[str, Any]:
    report, known = ending.report, status.reported(facts, now)
    if report is None:
        return known | {"evaluation": facts.job.status.evaluation}
    resolved = status.distinct(report.resolved)
    halved = status.with_halved_batch(resolved, facts.job.status)
    return known | {
        "progress": report.progress or known["progress"],
        "progress_time": known["progress_time"] or (time_text(now) if report.progress else None),
        "resolved": halved if resolved else known["resolved"],
        "plan": report.plan or known["plan"],
        "evaluation": report.evaluation or facts.job.status.evaluation,
        "checkpoint": status.newest_checkpoint(
            known["checkpoint"], report.resumed, report.checkpoint
        ),
    }


def _fields(facts: Facts, ending: Ending, now: datetime) -> dict[str, Any]:
    """What is written of an attempt that has ended, in one go with its counts."""
    fields, before = _reported(facts, ending, now), facts.job.status
    end_step = fields["progress"].step if fields["progress"] else None
    attempt = ledger.ended(facts, ending, now, end_step=end_step)
    if attempt is None:
        return fields
    if attempt != facts.job.latest and not ending.succeeded:
        counts = retries.counted(before.retries, attempt)
        counted = before.model_copy(update={"retries": counts})
        fields["retries"] = counts
        fields["resolved"] = status.with_halved_batch(fields["resolved"], counted)
    else:
        fields["retries"] = before.retries
    fields["attempts"] = status.with_attempt(before, attempt)
    fields["start_time"] = before.start_time or attempt.start_time
    return fields


def _final_fields(facts: Facts, ending: Ending, now: datetime) -> dict[str, Any]:
    return _fields(facts, ending, now) | {"completion_time": time_text(ending.time or now)}


def _told(facts: Facts) -> bool:
    """Whether the end of the attempt was written before, and with an event."""
    return facts.child is None and facts.job.between_attempts


def _number(facts: Facts) -> int:
    if facts.child:
        return facts.child.attempt
    return facts.job.latest.number if facts.job.latest else 1


def _log_tail(facts: Facts, ending: Ending) -> str | None:
    if facts.tail.lines:
        return tail(facts.tail.lines)
    # Without a report, the kubelet puts the end of the log into the termination message.
    if ending.report is None and ending.pod is not None and ending.pod.ended is not None:
        return tail(tuple(ending.pod.ended.message.split("\n")))
    return None
