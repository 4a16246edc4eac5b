"""The state machine of a FineTuneJob: from facts to the next step. Pure.

Called by the reconciler after every event. It knows no history but the status: a decision follows
from what is there, whichever events were missed. Final statuses are never left; final verdicts
are taken from confirmed facts only.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.observe import failures, fields
from finetune_operator.observe.facts import ChildJob, Facts, JobFacts, Pod
from finetune_operator.observe.failures import Ending
from finetune_operator.observe.jobs import is_predecessor
from finetune_operator.plan import endings, status
from finetune_operator.plan.decision import Creation, Decision, Notice
from finetune_operator.plan.pending import Waiting, pending, unexplained
from finetune_operator.plan.refusals import Refusal, digest, read_spec
from finetune_operator.plan.status import Statement, accepted

PREDECESSOR_POLL_SECONDS = 5
# A pod that is still there this long after its grace period has a node that does not answer.
LOST_AFTER = timedelta(seconds=60)
SUSPEND_LATER = "a job that has started cannot be suspended in this version; it keeps running"


def decide(facts: Facts, now: datetime) -> Decision:
    """The next step of one job.

    Args:
        facts: What is known of the job and its children.
        now: The time, in UTC.
    """
    job = facts.job
    if job.deleting or job.ended:
        return Decision()
    child = facts.child
    if child is None:
        return _without_child(facts, now)
    if child.owner is None or child.owner.uid != job.uid:
        return _beside_foreign(facts, child, now)
    ending = _ending(facts, child, now)
    if ending is None:
        return _under_way(facts, child, now)
    return endings.ended(facts, ending, now) if facts.confirmed else Decision(confirm=True)


def _without_child(facts: Facts, now: datetime) -> Decision:
    job = facts.job
    attempt = status.latest_attempt(job.status)
    if attempt is not None:
        ending = Ending(Reason.JOB_DELETED, f"Job {attempt.job} was deleted before it ended")
        return endings.failed(facts, ending, now) if facts.confirmed else Decision(confirm=True)
    spec = read_spec(job.spec)
    if isinstance(spec, Refusal):
        return endings.refused(facts, spec, now)
    if job.suspend:
        suspended = Statement(ConditionType.SUSPENDED, True, Reason.SUSPENDED_BY_USER)
        return Decision(status=status.build(job, [accepted(), suspended], now))
    waiting = _held_up(facts, now) if facts.obstacle else None
    return Decision(status=waiting, create=Creation(1, spec))


def _held_up(facts: Facts, now: datetime, message: str = "") -> FineTuneJobStatus:
    text = message or f"its Job cannot be created, and is tried again: {facts.obstacle}"
    statements = [
        accepted(),
        _not_suspended(),
        Statement(ConditionType.RUNNING, False, Reason.PODS_PENDING, text),
    ]
    return status.build(facts.job, statements, now)


def _beside_foreign(facts: Facts, child: ChildJob, now: datetime) -> Decision:
    """A Job of our name is not ours: that matters only if we want to create one."""
    alone = replace(facts, child=None, pods=())
    decision = _without_child(alone, now)
    if decision.create is None:
        return decision
    if not facts.confirmed:
        return Decision(confirm=True)
    if is_predecessor(child.owner, facts.job):
        message = f"waits until Job {child.name} of a deleted FineTuneJob of this name is gone"
        return Decision(status=_held_up(facts, now, message), wake_after=PREDECESSOR_POLL_SECONDS)
    message = f"Job {child.name} exists already and belongs to somebody else"
    return endings.failed(alone, Ending(Reason.NAME_CONFLICT, message), now)


def _ending(facts: Facts, child: ChildJob, now: datetime) -> Ending | None:
    if child.deleting:
        return Ending(Reason.JOB_DELETED, f"Job {child.name} was deleted before it ended")
    if child.complete:
        return failures.success(child, facts.pods, child.complete)
    if child.failed:
        return failures.failure(facts, child.failed)
    lost = next((pod for pod in facts.pods if _is_lost(pod, now)), None)
    if lost is None:
        return None
    message = f"pod {lost.name} was told to stop and node {lost.node} does not answer"
    return Ending(Reason.POD_LOST, message, pod=lost)


def _is_lost(pod: Pod, now: datetime) -> bool:
    return pod.deletion is not None and not pod.over and now > pod.deletion + LOST_AFTER


def _under_way(facts: Facts, child: ChildJob, now: datetime) -> Decision:
    job, running = facts.job, _running(facts)
    statements = [accepted(), _suspension(job), _running_statement(facts, running)]
    rank_0 = next((pod for pod in facts.pods if pod.index == 0), None)
    # A node that is named before its pod runs would cost a status write of its own.
    node = rank_0.node if rank_0 and running else None
    attempt = endings.attempt_of(child, running=running, node=node)
    found = status.reported(facts) | {
        "attempts": status.with_attempt(job.status, attempt),
        "start_time": job.status.start_time or attempt.start_time,
        "spec_digest": job.status.spec_digest or _digest(job),
    }
    waits = None if running else unexplained(facts, child)
    return Decision(
        status=status.build(job, statements, now, **found),
        notices=tuple(_notices(job, child)),
        follow=rank_0 if rank_0 and rank_0.running else None,
        ask=waits.subject if waits and waits.is_due(now) else None,
        wake_after=_wake_after(facts, waits, now),
    )


def _running(facts: Facts) -> bool:
    """Whether every pod runs and none was told to stop.

    Once pods end, the answer stays what it was, until their Job says how it ended.
    """
    started = [pod for pod in facts.pods if pod.running or pod.over]
    if len(started) < fields.number(fields.block(facts.job.spec, "resources").get("nodes"), 1):
        return False
    if any(pod.deletion for pod in started):
        return False
    return any(pod.running for pod in started) or _was_running(facts.job)


def _was_running(job: JobFacts) -> bool:
    conditions = job.status.conditions or ()
    return any(c.type == ConditionType.RUNNING and c.status == "True" for c in conditions)


def _running_statement(facts: Facts, running: bool) -> Statement:
    if running:
        return Statement(ConditionType.RUNNING, True, Reason.PODS_RUNNING)
    return pending(facts)


def _suspension(job: JobFacts) -> Statement:
    if job.suspend:
        return Statement(ConditionType.SUSPENDED, False, Reason.NOT_IMPLEMENTED, SUSPEND_LATER)
    return _not_suspended()


def _not_suspended() -> Statement:
    return Statement(ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED)


def _notices(job: JobFacts, child: ChildJob) -> list[Notice]:
    notices = []
    if status.latest_attempt(job.status) is None:
        message = f"created Job {child.name}"
        notices.append(Notice(Reason.JOB_CREATED, message, child.attempt))
    told = any(
        c.type == ConditionType.SUSPENDED and c.reason == Reason.NOT_IMPLEMENTED
        for c in job.status.conditions or ()
    )
    if job.suspend and not told:
        notices.append(Notice(Reason.NOT_IMPLEMENTED, SUSPEND_LATER, child.attempt, warning=True))
    return notices


def _wake_after(facts: Facts, waits: Waiting | None, now: datetime) -> float | None:
    deaths = [pod.deletion + LOST_AFTER for pod in facts.pods if pod.deletion and not pod.over]
    if deaths:
        return max((min(deaths) - now).total_seconds(), 0) + 1
    return waits.next_look(now) if waits else None


def _digest(job: JobFacts) -> str | None:
    spec = read_spec(job.spec)
    return None if isinstance(spec, Refusal) else digest(spec)
