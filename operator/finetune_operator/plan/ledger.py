"""Entries of `status.attempts`: what is known of an attempt, while it goes on and when it has ended.

Pure. Called by `plan.under_way`, `plan.endings` and `plan.between`. An entry outlives the Job and
the pods that it speaks of; once it says that an attempt has ended, its Job is no longer wanted.
"""

from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Attempt
from finetune_operator.observe.facts import OVER, ChildJob, Facts
from finetune_operator.observe.failures import Ending, culprit
from finetune_operator.observe.fields import time_text


def entry(
    facts: Facts, child: ChildJob, *, running: bool = False, node: str | None = None
) -> Attempt:
    """The entry of an attempt that has not ended; it began with its first Job."""
    latest, resumed = facts.job.latest, facts.tail.resumed
    known = latest if latest is not None and latest.number == child.attempt else None
    began = known.start_time if known else None
    return Attempt(
        number=child.attempt,
        job=child.name,
        state="Running" if running else "Pending",
        node=node,
        exit_code=_last_exit_code(facts) or (known.exit_code if known else None),
        start_step=resumed.step if resumed else (known.start_step if known else None),
        checkpoint=resumed.uri if resumed else (known.checkpoint if known else None),
        start_time=began or (time_text(child.created) if child.created else None),
    )


def _last_exit_code(facts: Facts) -> int | None:
    """The exit code of a pod that was told to stop: it is gone before its Job says how it ended."""
    going = [pod for pod in facts.pods if pod.deletion is not None]
    first = culprit(going)
    return first.ended.exit_code if first and first.ended else None


def ended(
    facts: Facts, ending: Ending, now: datetime, *, end_step: int | None = None
) -> Attempt | None:
    """The entry of an attempt that has ended like this; None if there never was one.

    What an entry says of an end stays: only an attempt that goes on can end.
    """
    attempt = entry(facts, facts.child) if facts.child else facts.job.latest
    if attempt is None or attempt.state in OVER:
        return attempt
    pod, report = ending.pod, ending.report
    update = {
        "state": "Succeeded" if ending.succeeded else "Failed",
        "reason": ending.reason.value,
        "exit_code": pod.ended.exit_code if pod and pod.ended else attempt.exit_code,
        "node": pod.node if pod else attempt.node,
        "end_step": end_step,
        "end_time": time_text(ending.time or now),
    }
    if report and report.resumed:
        update |= {"start_step": report.resumed.step, "checkpoint": report.resumed.uri}
    return attempt.model_copy(update=update)


def reason_of(attempt: Attempt) -> Reason:
    """Why it ended; a word that this version does not know is no reason to try again."""
    known = attempt.reason or ""
    return Reason(known) if known in set(Reason) else Reason.INTERNAL_ERROR
