"""What to do while the Job of the present stage is not there: create it, wait, or refuse. Pure.

Called by `plan.decide`. Nothing is created beside a Job of somebody else, for a spec that cannot be
carried out, for a suspended job, or before the jobs are Complete whose output is read.
"""

from dataclasses import replace
from datetime import datetime

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.observe import fields
from finetune_operator.observe.facts import ChildJob, Facts, Role
from finetune_operator.observe.failures import Ending
from finetune_operator.observe.jobs import is_predecessor
from finetune_operator.plan import deadlines, endings, grace, names, status
from finetune_operator.plan.chains import Chain, chain
from finetune_operator.plan.decision import Creation, Decision
from finetune_operator.plan.refusals import Refusal, read_spec
from finetune_operator.plan.status import Statement, accepted, not_suspended

PREDECESSOR_POLL_SECONDS = 5


def begin(facts: Facts, role: Role, now: datetime) -> Decision:
    """The next step of a job whose Job of this role is absent, or somebody else's."""
    if facts.child is None:
        return _alone(facts, role, now)
    return _beside_foreign(facts, facts.child, role, now)


def _alone(facts: Facts, role: Role, now: datetime) -> Decision:
    job = facts.job
    attempt = job.latest
    if attempt is not None and attempt.job == names.child_name(job, role):
        ending = Ending(Reason.JOB_DELETED, f"Job {attempt.job} was deleted before it ended")
        return endings.ended(facts, ending, now) if facts.confirmed else Decision(confirm=True)
    spec = read_spec(job.spec)
    if isinstance(spec, Refusal):
        return endings.refused(facts, spec, now)
    found = chain(spec, facts)
    if job.suspend:
        suspended = Statement(ConditionType.SUSPENDED, True, Reason.SUSPENDED_BY_USER)
        return Decision(status=status.build(job, [found.accepted, suspended], now))
    if found.refusal or found.waiting:
        return _not_ready(facts, found, now)
    return _creation(facts, spec, role, found, now)


def _not_ready(facts: Facts, found: Chain, now: datetime) -> Decision:
    # A job that the watch has not brought yet may be there, and one that failed may be made anew.
    if (found.refusal or found.absent) and not facts.confirmed:
        return Decision(confirm=True)
    if found.refusal:
        return endings.refused(facts, found.refusal, now)
    return Decision(status=status.build(facts.job, [found.accepted, not_suspended()], now))


def _creation(
    facts: Facts, spec: FineTuneJobSpec, role: Role, found: Chain, now: datetime
) -> Decision:
    job = facts.job
    if job.attempt_number > 1 and not facts.confirmed:
        # That nothing of the last attempt runs any more is not taken from a watch that lags.
        return Decision(confirm=True)
    left = deadlines.seconds_left(job, now)
    if left is not None and left <= 0:
        return _too_late(facts, now)
    creation = Creation(
        job.attempt_number,
        spec,
        role,
        found.sources,
        micro_batch_divisor=status.micro_batch_divisor(job.status),
        grace_seconds=grace.measured(job.status),
        deadline_seconds=left,
    )
    return Decision(status=_held_up(facts, now) if facts.obstacle else None, create=creation)


def _too_late(facts: Facts, now: datetime) -> Decision:
    if not facts.confirmed:
        return Decision(confirm=True)
    limit = fields.block(facts.job.spec, "runPolicy").get("activeDeadlineSeconds")
    message = f"runPolicy.activeDeadlineSeconds ({limit} s) was over before its Job was created"
    return endings.failed(facts, Ending(Reason.DEADLINE_EXCEEDED, message), now)


def _held_up(facts: Facts, now: datetime, message: str = "") -> FineTuneJobStatus:
    text = message or f"its Job cannot be created, and is tried again: {facts.obstacle}"
    statements = [
        accepted(),
        not_suspended(),
        Statement(ConditionType.RUNNING, False, Reason.PODS_PENDING, text),
    ]
    return status.build(facts.job, statements, now)


def _beside_foreign(facts: Facts, child: ChildJob, role: Role, now: datetime) -> Decision:
    """A Job of our name is not ours: that matters only if we want to create one."""
    alone = replace(facts, child=None, pods=())
    decision = _alone(alone, role, now)
    if decision.create is None:
        return decision
    if not facts.confirmed:
        return Decision(confirm=True)
    if is_predecessor(child.owner, facts.job):
        message = f"waits until Job {child.name} of a deleted FineTuneJob of this name is gone"
        return Decision(status=_held_up(facts, now, message), wake_after=PREDECESSOR_POLL_SECONDS)
    message = f"Job {child.name} exists already and belongs to somebody else"
    return endings.failed(alone, Ending(Reason.NAME_CONFLICT, message), now)
