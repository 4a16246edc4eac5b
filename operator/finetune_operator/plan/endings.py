"""Final decisions: the status and the event of a job that is complete, failed or refused.

Called by `plan.decide`. A final status is written once and never changed.
"""

from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_api.v1alpha1.status import Attempt, Failure
from finetune_operator.observe.facts import ChildJob, Facts
from finetune_operator.observe.failures import Ending
from finetune_operator.observe.fields import time_text
from finetune_operator.observe.text import one_line, tail
from finetune_operator.plan import status
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
    found = _reported(facts, ending) | {"progress": None}
    if facts.child:
        attempt = attempt_of(facts, facts.child)
        found["attempts"] = status.with_attempt(facts.job.status, attempt)
        found["start_time"] = facts.job.status.start_time or attempt.start_time
    written = status.build(facts.job, statements, now, **found)
    notice = Notice(Reason.PREFLIGHT_PASSED, ending.message, _number(facts))
    return Decision(status=written, notices=(notice,), wake_after=0)


def ended(facts: Facts, ending: Ending, now: datetime) -> Decision:
    """A job whose attempt ended."""
    if ending.succeeded:
        return _complete(facts, ending, now)
    return failed(facts, ending, now)


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


def failed(facts: Facts, ending: Ending, now: datetime) -> Decision:
    """A job whose attempt failed, or whose Job is gone."""
    statements = [
        accepted(),
        _no_longer_running(ending),
        Statement(ConditionType.FAILED, True, ending.reason, ending.message),
    ]
    failure = failed_because(ending.reason, ending.message, ending.hint, _log_tail(facts, ending))
    fields = _final_fields(facts, ending, now) | {"failure": failure}
    final = status.build(facts.job, statements, now, **fields)
    return Decision(status=final, notices=(_notice(ending.reason, ending.message, _number(facts)),))


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


def _reported(facts: Facts, ending: Ending) -> dict[str, Any]:
    report, known = ending.report, status.reported(facts)
    return {
        "progress": (report.progress if report else None) or known["progress"],
        "resolved": status.distinct(report.resolved if report else None) or known["resolved"],
        "plan": (report.plan if report else None) or known["plan"],
        "evaluation": (report.evaluation if report else None) or facts.job.status.evaluation,
    }


def _final_fields(facts: Facts, ending: Ending, now: datetime) -> dict[str, Any]:
    fields = _reported(facts, ending)
    end_step = fields["progress"].step if fields["progress"] else None
    attempt = _ended_attempt(facts, ending, now, end_step)
    if attempt:
        fields["attempts"] = status.with_attempt(facts.job.status, attempt)
        fields["start_time"] = facts.job.status.start_time or attempt.start_time
    return fields | {"completion_time": time_text(ending.time or now)}


def _ended_attempt(
    facts: Facts, ending: Ending, now: datetime, end_step: int | None
) -> Attempt | None:
    known = status.latest_attempt(facts.job.status)
    attempt = attempt_of(facts, facts.child) if facts.child else known
    if attempt is None:
        return None
    pod = ending.pod
    update = {
        "state": "Succeeded" if ending.succeeded else "Failed",
        "reason": ending.reason.value,
        "exit_code": pod.ended.exit_code if pod and pod.ended else None,
        "node": pod.node if pod else attempt.node,
        "end_step": end_step,
        "end_time": time_text(ending.time or now),
    }
    return attempt.model_copy(update=update)


def attempt_of(
    facts: Facts, child: ChildJob, *, running: bool = False, node: str | None = None
) -> Attempt:
    """The entry of an attempt that has not ended; it began with its first Job."""
    known = status.latest_attempt(facts.job.status)
    began = known.start_time if known and known.number == child.attempt else None
    return Attempt(
        number=child.attempt,
        job=child.name,
        state="Running" if running else "Pending",
        node=node,
        start_time=began or (time_text(child.created) if child.created else None),
    )


def _number(facts: Facts) -> int:
    return facts.child.attempt if facts.child else 1


def _log_tail(facts: Facts, ending: Ending) -> str | None:
    if facts.tail.lines:
        return tail(facts.tail.lines)
    # Without a report, the kubelet puts the end of the log into the termination message.
    if ending.report is None and ending.pod is not None and ending.pod.ended is not None:
        return tail(tuple(ending.pod.ended.message.split("\n")))
    return None
