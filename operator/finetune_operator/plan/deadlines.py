"""The deadlines of a job: to start, to end, and to be removed after its end. Pure.

Called by `plan.decide` and its parts. Kubernetes keeps the time of a running Job; what spans several
Jobs is kept here, from times in the status.
"""

from datetime import datetime, timedelta

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_api.v1alpha1.status import Condition, FineTuneJobStatus
from finetune_operator.observe import fields
from finetune_operator.observe.facts import ChildJob, Facts, JobFacts
from finetune_operator.observe.failures import Ending
from finetune_operator.plan.decision import Decision

# Phases after the last step: an attempt that resumes a run whose steps are done begins with them.
LATE = ("Saving", "Publishing", "Verifying")


def startup(facts: Facts, child: ChildJob) -> datetime | None:
    """When the attempt must have done its first step; None without a deadline, or once it has."""
    limit = _seconds(facts.job, "startupDeadlineSeconds")
    began = _began(facts, child)
    if limit is None or began is None or _has_begun(facts):
        return None
    return began + timedelta(seconds=limit)


def not_started(facts: Facts, child: ChildJob, now: datetime) -> Ending | None:
    """The ending of an attempt that has not started in time."""
    deadline = startup(facts, child)
    if deadline is None or now <= deadline:
        return None
    limit = _seconds(facts.job, "startupDeadlineSeconds")
    running = _condition(facts.job.status, ConditionType.RUNNING)
    why = f"; the last word was {running.reason}: {running.message}" if running else ""
    message = f"no training step within runPolicy.startupDeadlineSeconds ({limit} s){why}"
    return Ending(Reason.STARTUP_DEADLINE_EXCEEDED, message, time=now)


def seconds_left(job: JobFacts, now: datetime) -> int | None:
    """What is left of `activeDeadlineSeconds`; None without one.

    It counts from the creation of the first attempt, or from the end of the last suspension or wait
    in a queue, as that of a Kubernetes Job does.
    """
    limit = _seconds(job, "activeDeadlineSeconds")
    if limit is None or job.status.start_time is None:
        return limit
    suspended = _condition(job.status, ConditionType.SUSPENDED)
    if _since(suspended, "True"):
        # It is released just now.
        return limit
    admitted = _condition(job.status, ConditionType.ADMITTED)
    starts = [fields.time(job.status.start_time)]
    starts += [_since(suspended, "False"), _since(admitted, "True")]
    since = max((each for each in starts if each), default=now)
    return int(limit - max((now - since).total_seconds(), 0))


def removal(job: JobFacts, now: datetime) -> Decision:
    """What to do with a job that has ended: leave it, look again later, or remove it."""
    ended = fields.time(job.status.completion_time) or _final_time(job.status)
    if job.ttl_seconds is None or ended is None or job.deleting:
        return Decision()
    left = (ended + timedelta(seconds=job.ttl_seconds) - now).total_seconds()
    return Decision(remove=True) if left <= 0 else Decision(wake_after=left)


def _final_time(status: FineTuneJobStatus) -> datetime | None:
    finals = (_condition(status, kind) for kind in (ConditionType.COMPLETE, ConditionType.FAILED))
    return next((since for each in finals if (since := _since(each, "True"))), None)


def _began(facts: Facts, child: ChildJob) -> datetime | None:
    latest = facts.job.latest
    known = latest.start_time if latest and latest.number == child.attempt else None
    return fields.time(known) or child.created


def _has_begun(facts: Facts) -> bool:
    if facts.job.between_attempts:
        return False
    progress = facts.tail.progress or facts.job.status.progress
    latest, resumed = facts.job.latest, facts.tail.resumed
    start = resumed.step if resumed else (latest.start_step if latest else None)
    return progress is not None and (progress.step > (start or 0) or progress.phase in LATE)


def _seconds(job: JobFacts, name: str) -> int | None:
    return fields.number(fields.block(job.spec, "runPolicy").get(name)) or None


def _condition(status: FineTuneJobStatus, kind: ConditionType) -> Condition | None:
    return next((each for each in status.conditions or () if each.type == kind), None)


def _since(condition: Condition | None, status: str) -> datetime | None:
    """Since when a condition has had this status."""
    if condition is None or condition.status != status:
        return None
    return fields.time(condition.last_transition_time)
