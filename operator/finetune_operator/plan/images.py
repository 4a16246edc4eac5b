"""When an image that cannot be pulled ends an attempt. Pure.

Called by `plan.decide`. The pods of a Job keep the image that they were made with, and the kubelet
pulls it again for ever: only another attempt gets an image that was corrected meanwhile. What is told
of the pods until then is `plan.pending`'s.
"""

from datetime import datetime, timedelta

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.observe.facts import Facts, Pod
from finetune_operator.observe.failures import Ending
from finetune_operator.plan.pending import image_message, pulls_in_vain

# No further pull can change these.
HOPELESS = ("InvalidImageName", "ErrImageNeverPull")
# What registries answer when they have no such image, or not for this secret.
REFUSALS = (
    "not found", "manifest unknown", "name unknown", "does not exist", "denied", "unauthorized",
    "forbidden",
)  # fmt: skip
# The kubelet has pulled about four times by then.
REFUSED = timedelta(seconds=120)
# A registry that does not answer may come back.
UNANSWERED = timedelta(minutes=30)


def deadline(facts: Facts) -> datetime | None:
    """When an image that cannot be pulled ends the attempt; None while none is in the way."""
    ends = (_end(facts, pod) for pod in facts.pods if pulls_in_vain(pod))
    return min((each for each in ends if each), default=None)


def not_pulled(facts: Facts, now: datetime) -> Ending | None:
    """The ending of an attempt whose image cannot be pulled; None while it is tried on."""
    for pod in facts.pods:
        end = _end(facts, pod) if pulls_in_vain(pod) else None
        if end and now >= end:
            message = image_message(facts, pod)
            return Ending(Reason.IMAGE_PULL_FAILED, message, pod=pod, time=now)
    return None


def _end(facts: Facts, pod: Pod) -> datetime | None:
    began = pod.scheduled or pod.created
    if began is None or (pod.waiting and pod.waiting[0] in HOPELESS):
        return began
    said = image_message(facts, pod).lower()
    return began + (REFUSED if any(words in said for words in REFUSALS) else UNANSWERED)
