"""Jobs that a Kueue queue admits: the label by which it finds them, and what to say meanwhile. Pure.

The trainers' Job of such a FineTuneJob is created suspended. Kueue lifts the suspension when it
grants the resources and sets it again to take them back; the pods then save and end, and begin
anew in the same Job. The operator never touches that field.
"""

from datetime import datetime, timedelta

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_operator.observe.facts import ChildJob, Facts, JobFacts, Role
from finetune_operator.observe.fields import block, text
from finetune_operator.plan.status import Statement

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
# Kueue answers within seconds, if only with a reason to wait.
UNANSWERED_AFTER = timedelta(seconds=60)


def queue_labels(spec: FineTuneJobSpec, role: Role) -> dict[str, str]:
    """The label of a Job that waits for a queue; a preflight asks for no GPU and waits for none."""
    name = spec.scheduling.queue_name
    return {QUEUE_LABEL: name} if name and role is Role.TRAINER else {}


def queue_of(job: JobFacts) -> str:
    """Name of the job's queue; empty without one."""
    return text(block(job.spec, "scheduling"), "queueName")


def admission(facts: Facts, child: ChildJob, role: Role, now: datetime) -> list[Statement]:
    """The condition Admitted of a job with a queue."""
    if not queue_of(facts.job) or role is Role.PREFLIGHT:
        return []
    if not child.suspended:
        return [Statement(ConditionType.ADMITTED, True, Reason.ADMITTED_BY_QUEUE)]
    message = waiting_message(facts, child, now)
    return [Statement(ConditionType.ADMITTED, False, Reason.WAITING_FOR_QUEUE, message)]


def given_back(job: JobFacts) -> list[Statement]:
    """That a suspended job has left its queue, with what that had granted."""
    if not queue_of(job):
        return []
    return [Statement(ConditionType.ADMITTED, False, Reason.SUSPENDING, "it left its queue")]


def waiting_message(facts: Facts, child: ChildJob, now: datetime) -> str:
    """Why a suspended Job waits, as far as is known."""
    queue = queue_of(facts.job)
    message = f"Job {child.name} waits for queue {queue}" if queue else f"Job {child.name} is held"
    if facts.obstacle:
        return f"{message}: {facts.obstacle}"
    if is_unanswered(child, now):
        message += (
            "; without Kueue in the cluster, or without a LocalQueue of this name in the namespace, "
            "it waits for ever"
        )
    return message


def is_unanswered(child: ChildJob, now: datetime) -> bool:
    """Whether it has waited for so long that the queue itself may be missing."""
    return child.created is not None and now - child.created > UNANSWERED_AFTER
