"""What happens between two attempts: the end of one is carried out, and the next one waited for. Pure.

Called by `plan.decide`. All follows from the newest entry of `status.attempts`: it says that its
attempt has ended and why. The entry is written before its Job is deleted, so that an operator that
was killed in between finds the reason in the status and the Job as one that is no longer wanted.
The next attempt begins when no pod of a former one can run any more, which is read from the API
server and not from the watch.
"""

from dataclasses import replace
from datetime import datetime

from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_api.v1alpha1.status import Attempt, CheckpointStatus, Condition
from finetune_operator.observe import fields
from finetune_operator.observe.facts import ChildJob, Facts, JobFacts, Pod
from finetune_operator.observe.failures import Ending
from finetune_operator.plan import endings, ledger, queues, retries, status
from finetune_operator.plan.decision import Decision, Notice
from finetune_operator.plan.status import Statement, accepted, not_suspended
from finetune_operator.plan.under_way import LOST_AFTER, is_lost

# A pod whose Job was deleted is told to stop within seconds.
POLL_SECONDS = 5.0


def suspend(facts: Facts, child: ChildJob, now: datetime) -> Decision:
    """End an attempt because the user wants the job to hold nothing; it costs no retry."""
    ending = Ending(Reason.SUSPENDED_BY_USER, f"Job {child.name} is stopped: spec.suspend is set")
    found = status.reported(facts, now)
    step = found["progress"].step if found["progress"] else None
    attempt = ledger.ended(facts, ending, now, end_step=step)
    if attempt is None:
        raise ValueError("an attempt whose Job is there has an entry")
    stopped = attempt.model_copy(update={"state": "Stopped"})
    statements = [
        accepted(),
        Statement(ConditionType.SUSPENDED, False, Reason.SUSPENDING),
        Statement(ConditionType.RUNNING, False, Reason.SUSPENDING),
        *queues.given_back(facts.job),
    ]
    found |= {
        "attempts": status.with_attempt(facts.job.status, stopped),
        "start_time": facts.job.status.start_time or stopped.start_time,
    }
    notice = Notice(Reason.SUSPENDING, ending.message, child.attempt)
    written = status.build(facts.job, statements, now, **found)
    return Decision(status=written, notices=(notice,), wake_after=0)


def wait(facts: Facts, latest: Attempt, now: datetime) -> Decision | None:
    """What to do before the next attempt; None when it may begin."""
    verdict = retries.verdict(facts.job, facts.job.status.retries, latest)
    failed = latest.state == "Failed"
    if failed and not verdict.again:
        return _give_up(facts, latest, verdict, now)
    if any(_may_run(pod, now) for pod in facts.older_pods):
        return _until_gone(facts, now)
    if facts.job.suspend:
        return _suspended(facts, now)
    due = retries.due(latest, verdict, now)
    if failed and now < due:
        return _pause(facts, latest, due, now)
    return None


def _give_up(facts: Facts, latest: Attempt, verdict: retries.Verdict, now: datetime) -> Decision:
    if not facts.confirmed:
        return Decision(confirm=True)
    alone = replace(facts, child=None, pods=())
    word, ended = _last_word(facts.job, latest), fields.time(latest.end_time)
    ending = Ending(ledger.reason_of(latest), word, time=ended)
    return endings.failed(alone, ending, now, spent=verdict.spent)


def _may_run(pod: Pod, now: datetime) -> bool:
    return not pod.over and not is_lost(pod, now)


def _until_gone(facts: Facts, now: datetime) -> Decision:
    """Pods of the last attempt still save and end."""
    if facts.job.suspend:
        suspension = Statement(ConditionType.SUSPENDED, False, Reason.SUSPENDING)
    else:
        suspension = not_suspended()
    deaths = [pod.deletion + LOST_AFTER for pod in facts.older_pods if pod.deletion]
    left = [(death - now).total_seconds() + 1 for death in deaths]
    written = status.build(facts.job, [suspension], now, checkpoint=_checkpoint(facts))
    return Decision(status=written, wake_after=min([POLL_SECONDS, *(s for s in left if s > 0)]))


def _suspended(facts: Facts, now: datetime) -> Decision:
    statements = [
        Statement(ConditionType.SUSPENDED, True, Reason.SUSPENDED_BY_USER),
        Statement(ConditionType.RUNNING, False, Reason.SUSPENDED_BY_USER),
    ]
    return Decision(status=status.build(facts.job, statements, now, checkpoint=_checkpoint(facts)))


def _pause(facts: Facts, latest: Attempt, due: datetime, now: datetime) -> Decision:
    waiting = endings.retry_statement(latest, _last_word(facts.job, latest), due)
    running = _running(facts.job)
    told = running is not None and running.reason == Reason.RETRY_WAITING
    statements = [not_suspended()] if told else [not_suspended(), waiting]
    written = status.build(facts.job, statements, now, checkpoint=_checkpoint(facts))
    return Decision(status=written, wake_after=(due - now).total_seconds())


def _last_word(job: JobFacts, latest: Attempt) -> str:
    """Why the last attempt ended, from the condition that was written with its entry."""
    running = _running(job)
    if running is not None and running.reason in (latest.reason, Reason.RETRY_WAITING):
        return running.message
    return ledger.reason_of(latest).meaning.text


def _running(job: JobFacts) -> Condition | None:
    conditions = job.status.conditions or ()
    return next((each for each in conditions if each.type == ConditionType.RUNNING), None)


def _checkpoint(facts: Facts) -> CheckpointStatus | None:
    """The newest checkpoint, those included that pods reported while they ended."""
    saved = status.saved_last(facts.older_pods)
    return status.newest_checkpoint(facts.job.status.checkpoint, *saved)
