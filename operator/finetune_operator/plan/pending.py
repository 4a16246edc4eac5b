"""Why the pods of an attempt do not run yet, in Kubernetes' own words.

Called by `plan.decide`. None of this is final: a missing Secret may be created, an image pushed. For
how long an image is waited for is `plan.images`'.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_operator.observe.facts import ChildJob, Facts, Pod
from finetune_operator.plan.decision import Subject
from finetune_operator.plan.status import Statement

# Most pods start sooner; asking for events earlier would cost every job a request.
STALLED_AFTER = timedelta(seconds=15)
ASK_SECONDS = 60.0
BACKING_OFF = "ImagePullBackOff"
IMAGE_REASONS = ("ErrImagePull", BACKING_OFF, "InvalidImageName", "ErrImageNeverPull")
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
MOUNT_REASONS = ("FailedMount", "FailedAttachVolume")


@dataclass(frozen=True)
class Waiting:
    """An object that does not go on, and does not say why."""

    subject: Subject
    since: datetime

    def is_due(self, now: datetime) -> bool:
        """Whether it has waited for so long that its events are worth a request."""
        return now - self.since >= STALLED_AFTER

    def next_look(self, now: datetime) -> float:
        """Seconds until its events are worth a request, or worth another one."""
        left = (self.since + STALLED_AFTER - now).total_seconds()
        return left + 1 if left > 0 else ASK_SECONDS


def unexplained(facts: Facts, child: ChildJob) -> Waiting | None:
    """The pod, or the Job without pods, whose events may say why nothing runs."""
    if not facts.pods:
        return (
            Waiting(Subject("Job", child.name, child.uid), child.created) if child.created else None
        )
    for pod in facts.pods:
        if _is_waiting(pod) and _of_pod(pod, None)[0] is None and pod.created:
            return Waiting(Subject("Pod", pod.name, pod.uid), pod.created)
    return None


def pending(facts: Facts, otherwise: Reason) -> Statement:
    """The condition Running=False with the best explanation there is, or this one without any."""
    for pod in facts.pods:
        reason, message = _of_pod(pod, facts.obstacle) if _is_waiting(pod) else (None, "")
        if reason is not None:
            if reason == Reason.IMAGE_PULL_FAILED:
                return _not_running(reason, image_message(facts, pod))
            return _not_running(reason, f"pod {pod.name}: {message}")
    if not facts.pods and facts.obstacle:
        return _not_running(Reason.PODS_PENDING, f"no pod could be created: {facts.obstacle}")
    return _not_running(otherwise)


def pulls_in_vain(pod: Pod) -> bool:
    """Whether the image of a pod cannot be pulled, as its kubelet says."""
    return _is_waiting(pod) and _of_pod(pod, None)[0] == Reason.IMAGE_PULL_FAILED


def image_message(facts: Facts, pod: Pod) -> str:
    """Why; the old words while the kubelet waits for its next pull: its two messages alternate."""
    why, said = pod.waiting or ("", "")
    for condition in facts.job.status.conditions or ():
        known = (condition.type, condition.reason)
        if why == BACKING_OFF and known == (ConditionType.RUNNING, Reason.IMAGE_PULL_FAILED):
            return condition.message
    return f"pod {pod.name}: {why}: {said}"


def _is_waiting(pod: Pod) -> bool:
    return not pod.over and (not pod.running or pod.deletion is not None)


def _of_pod(pod: Pod, obstacle: str | None) -> tuple[Reason | None, str]:
    if pod.deletion is not None:
        return Reason.PODS_PENDING, "it was told to stop"
    if pod.unschedulable is not None:
        return Reason.PODS_PENDING, pod.unschedulable
    why, message = pod.waiting or ("", "")
    if why in IMAGE_REASONS:
        return Reason.IMAGE_PULL_FAILED, f"{why}: {message}"
    if why in CONFIG_REASONS or why in MOUNT_REASONS:
        return Reason.POD_CONFIG_ERROR, f"{why}: {message}"
    if obstacle is None:
        return None, ""
    mount = obstacle.startswith(MOUNT_REASONS)
    return Reason.POD_CONFIG_ERROR if mount else Reason.PODS_PENDING, obstacle


def _not_running(reason: Reason, message: str = "") -> Statement:
    return Statement(ConditionType.RUNNING, False, reason, message)
