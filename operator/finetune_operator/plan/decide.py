"""The state machine of a FineTuneJob: from facts to the next step. Pure.

Called by the reconciler after every event. It knows no history but the status: a decision follows
from what is there, whichever events were missed. Final statuses are never left; final verdicts
are taken from confirmed facts only.

A job with GPUs has two Jobs an attempt, one after the other: the preflight checks the input without
GPUs, and only when it has passed are the trainers made. `plan.beginning` decides while the Job of
the present stage is not there, `plan.under_way` while it is, `plan.endings` when it has ended, and
`plan.between` until the next attempt begins, if there is one.
"""

from datetime import datetime

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_operator.observe import failures, fields
from finetune_operator.observe.facts import ChildJob, Facts, Role, holds
from finetune_operator.observe.failures import Ending
from finetune_operator.plan import between, deadlines, endings, hang, images, names, under_way
from finetune_operator.plan.beginning import begin
from finetune_operator.plan.decision import Decision


def decide(facts: Facts, now: datetime) -> Decision:
    """The next step of one job.

    Args:
        facts: What is known of the job and its children.
        now: The time, in UTC.
    """
    if facts.job.deleting:
        return Decision()
    if facts.job.ended:
        return deadlines.removal(facts.job, now)
    unwanted = next((each for each in facts.older if not each.deleting), None)
    if unwanted is not None:
        return Decision(stop=unwanted)
    role = stage(facts)
    facts = facts.at(role)
    if facts.child is None or not facts.child.is_of(facts.job):
        return _next_attempt(facts, role, now)
    return _present_attempt(facts, facts.child, role, now)


def _next_attempt(facts: Facts, role: Role, now: datetime) -> Decision:
    latest = facts.job.latest
    if latest is not None and facts.job.between_attempts:
        waiting = between.wait(facts, latest, now)
        if waiting is not None:
            return waiting
    return begin(facts, role, now)


def _present_attempt(facts: Facts, child: ChildJob, role: Role, now: datetime) -> Decision:
    ending = _ending(facts, child, role, now)
    if ending is None and not facts.job.suspend:
        return under_way.go_on(facts, child, role, now)
    if not facts.confirmed:
        return Decision(confirm=True)
    if ending is None:
        return between.suspend(facts, child, now)
    if ending.reason == Reason.PREFLIGHT_PASSED:
        return endings.passed(facts, ending, now)
    return endings.ended(facts, ending, now)


def stage(facts: Facts) -> Role:
    """Which Job the attempt stands at: the one that is there, or is to be made next."""
    job, child = facts.job, facts.child
    gpus = fields.number(fields.block(job.spec, "resources").get("gpusPerNode"), 1)
    if gpus == 0 or holds(job.status, ConditionType.INPUT_CHECKED):
        return Role.TRAINER
    if child is not None and (child.is_of(job) or facts.preflight is None):
        # Somebody else's Job of that name would be in the way: better said before the preflight.
        return Role.TRAINER
    if job.latest is not None and job.latest.job == names.child_name(job):
        return Role.TRAINER
    return Role.PREFLIGHT


def _ending(facts: Facts, child: ChildJob, role: Role, now: datetime) -> Ending | None:
    if child.deleting:
        return Ending(Reason.JOB_DELETED, f"Job {child.name} was deleted before it ended")
    if child.complete:
        succeeded = failures.success if role is Role.TRAINER else failures.passed
        return succeeded(child, facts.pods, child.complete)
    if child.failed:
        return failures.failure(facts, child.failed)
    return (
        _lost(facts, now)
        or (hang.hung(facts, now) if role is Role.TRAINER else None)
        or images.not_pulled(facts, now)
        or deadlines.not_started(facts, child, now)
    )


def _lost(facts: Facts, now: datetime) -> Ending | None:
    lost = next((pod for pod in facts.pods if under_way.is_lost(pod, now)), None)
    if lost is None:
        return None
    message = f"pod {lost.name} was told to stop and node {lost.node} does not answer"
    return Ending(Reason.NODE_LOST, message, pod=lost)
