"""What to say of an attempt whose Job is there and has not ended. Pure.

Called by `plan.decide`. The same facts give the same status, however often they are looked at.
"""

from datetime import datetime, timedelta

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_operator.observe import fields
from finetune_operator.observe.facts import ChildJob, Facts, JobFacts, Pod, Role
from finetune_operator.plan import deadlines, images, ledger, queues, status
from finetune_operator.plan.decision import Decision, Notice
from finetune_operator.plan.pending import Waiting, pending, unexplained
from finetune_operator.plan.refusals import Refusal, digest, read_spec
from finetune_operator.plan.status import Statement, accepted, not_suspended

# A pod that is still there this long after its grace period has a node that does not answer.
LOST_AFTER = timedelta(seconds=60)
RUNNING = {Role.TRAINER: Reason.PODS_RUNNING, Role.PREFLIGHT: Reason.PREFLIGHT_RUNNING}
PENDING = {Role.TRAINER: Reason.JOB_CREATED, Role.PREFLIGHT: Reason.PREFLIGHT_PENDING}


def go_on(facts: Facts, child: ChildJob, role: Role, now: datetime) -> Decision:
    """The status of an attempt that goes on, and when to look at it again."""
    job, running = facts.job, _is_running(facts, role)
    statements = [
        accepted(),
        not_suspended(),
        *queues.admission(facts, child, role, now),
        _running_statement(facts, child, role, running, now),
    ]
    rank_0 = next((pod for pod in facts.pods if pod.index == 0), None)
    waits = None if running else unexplained(facts, child)
    return Decision(
        status=status.build(job, statements, now, **_found(facts, child, role, running, now)),
        notices=tuple(_notices(facts, child)) if role is Role.TRAINER else (),
        follow=rank_0 if rank_0 and rank_0.running else None,
        ask=waits.subject if waits and waits.is_due(now) else None,
        wake_after=_wake_after(facts, child, waits, now),
    )


def is_lost(pod: Pod, now: datetime) -> bool:
    """Whether a pod was told to stop so long ago that its node must be gone."""
    return pod.deletion is not None and not pod.over and now > pod.deletion + LOST_AFTER


def _found(
    facts: Facts, child: ChildJob, role: Role, running: bool, now: datetime
) -> dict[str, object]:
    training = running and role is Role.TRAINER
    rank_0 = next((pod for pod in facts.pods if pod.index == 0), None)
    # A node that is named before its pod runs would cost a status write of its own.
    node = rank_0.node if rank_0 and training else None
    attempt = ledger.entry(facts, child, running=training, node=node)
    return status.reported(facts, now) | {
        "attempts": status.with_attempt(facts.job.status, attempt),
        "start_time": facts.job.status.start_time or attempt.start_time,
        "spec_digest": facts.job.status.spec_digest or _digest(facts.job),
    }


def _is_running(facts: Facts, role: Role) -> bool:
    """Whether every pod runs and none was told to stop.

    Once pods end, the answer stays what it was, until their Job says how it ended.
    """
    nodes = fields.number(fields.block(facts.job.spec, "resources").get("nodes"), 1)
    started = [pod for pod in facts.pods if pod.running or pod.over]
    if len(started) < (nodes if role is Role.TRAINER else 1):
        return False
    if any(pod.deletion for pod in started):
        return False
    return any(pod.running for pod in started) or _was_running(facts.job, role)


def _was_running(job: JobFacts, role: Role) -> bool:
    conditions = job.status.conditions or ()
    return any(c.type == ConditionType.RUNNING and c.reason == RUNNING[role] for c in conditions)


def _running_statement(
    facts: Facts, child: ChildJob, role: Role, running: bool, now: datetime
) -> Statement:
    if running:
        # What is stated is that the trainers run: a preflight is not yet that.
        return Statement(ConditionType.RUNNING, role is Role.TRAINER, RUNNING[role])
    if child.suspended and not facts.pods:
        message = queues.waiting_message(facts, child, now)
        return Statement(ConditionType.RUNNING, False, Reason.WAITING_FOR_QUEUE, message)
    return pending(facts, PENDING[role])


def _notices(facts: Facts, child: ChildJob) -> list[Notice]:
    job, progress, known = facts.job, facts.tail.progress, facts.job.status.progress
    if job.latest is not None and job.latest.job == child.name:
        slow = progress.straggler if progress and not (known and known.straggler) else None
        return [Notice(Reason.STRAGGLER, slow, child.attempt, warning=True)] if slow else []
    return [Notice(Reason.JOB_CREATED, f"created Job {child.name}", child.attempt)]


def _wake_after(
    facts: Facts, child: ChildJob, waits: Waiting | None, now: datetime
) -> float | None:
    """Seconds until the first of the times at which something is to be done or said."""
    times = [pod.deletion + LOST_AFTER for pod in facts.pods if pod.deletion and not pod.over]
    ends = (deadlines.startup(facts, child), images.deadline(facts))
    times += [each for each in ends if each]
    if child.suspended and child.created and not queues.is_unanswered(child, now):
        times.append(child.created + queues.UNANSWERED_AFTER)
    looks = [max((each - now).total_seconds(), 0) + 1 for each in times]
    return min([*looks, *([waits.next_look(now)] if waits else [])], default=None)


def _digest(job: JobFacts) -> str | None:
    spec = read_spec(job.spec)
    return None if isinstance(spec, Refusal) else digest(spec)
