"""Whether a failed attempt is followed by another one, and when. Pure.

Called by `plan.endings` when an attempt ends and by `plan.between` until the next one begins. The
counts lie in `status.retries` and not in the list of attempts, which is bounded. Both are written
together, so that an operator that was killed counts nothing twice.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.v1alpha1.meanings import FailureClass
from finetune_api.v1alpha1.scheduling import RetryBudget
from finetune_api.v1alpha1.status import Attempt, RetryCounts
from finetune_operator.observe import fields
from finetune_operator.observe.facts import JobFacts, Role
from finetune_operator.plan import ledger

FIRST_PAUSE, LONGEST_PAUSE = 10.0, 360.0
# Free attempts must not become a loop: so many in a row may end before a step is done.
MAX_WITHOUT_PROGRESS = 16
INFRASTRUCTURE = (FailureClass.INFRASTRUCTURE, FailureClass.HANG)


@dataclass(frozen=True)
class Verdict:
    """What follows a failed attempt.

    Attributes:
        again: Whether there is another one.
        pause: Seconds that it has to wait for.
        spent: Why there is none although the failure may pass; empty if it cannot.
    """

    again: bool
    pause: float = 0
    spent: str = ""


def counted(counts: RetryCounts | None, attempt: Attempt) -> RetryCounts | None:
    """The counts with this failed attempt, which they do not hold yet."""
    failure, before = _class(attempt), counts or RetryCounts()
    update = {
        "disruption": before.disruption + (failure is FailureClass.DISRUPTION),
        "infrastructure": before.infrastructure + (failure in INFRASTRUCTURE),
        "out_of_memory": before.out_of_memory + (failure is FailureClass.OUT_OF_MEMORY),
        "without_progress": 0 if made_progress(attempt) else before.without_progress + 1,
    }
    may_pass = failure in (FailureClass.DISRUPTION, *INFRASTRUCTURE, FailureClass.OUT_OF_MEMORY)
    return before.model_copy(update=update) if may_pass else counts


def made_progress(attempt: Attempt) -> bool:
    """Whether it did a training step."""
    return (attempt.end_step or 0) > (attempt.start_step or 0)


def verdict(job: JobFacts, counts: RetryCounts | None, attempt: Attempt) -> Verdict:
    """What follows a failed attempt, which the counts hold already."""
    failure, so_far, budget = _class(attempt), counts or RetryCounts(), _budget(job)
    if failure is FailureClass.DISRUPTION:
        return _after_disruption(so_far.without_progress)
    if failure in INFRASTRUCTURE:
        # After progress the fault is a new one, and not worth a longer wait than the first.
        in_a_row = max(so_far.without_progress, 1)
        return _within("infrastructure", so_far.infrastructure, budget.infrastructure, in_a_row)
    if failure is FailureClass.OUT_OF_MEMORY:
        spent = so_far.out_of_memory
        return _within("outOfMemory", spent, budget.out_of_memory, spent)
    return Verdict(again=False)


def pause(failures: int) -> float:
    """Seconds to wait after so many failures: 10, 20, 40 … at most 360."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE) if failures else 0


def due(attempt: Attempt, found: Verdict, now: datetime) -> datetime:
    """When the attempt after this one may begin."""
    ended = fields.time(attempt.end_time) or now
    return ended + timedelta(seconds=found.pause)


def with_attempts(message: str, number: int, spent: str) -> str:
    """The message of a final failure, with how many attempts there were if it was not the first."""
    if spent:
        return f"{message} (attempt {number}, the last: {spent})"
    return f"{message} (attempt {number})" if number > 1 else message


def _after_disruption(without_progress: int) -> Verdict:
    if without_progress >= MAX_WITHOUT_PROGRESS:
        spent = f"{without_progress} in a row ended before a training step was done"
        return Verdict(again=False, spent=spent)
    return Verdict(again=True, pause=pause(without_progress))


def _within(name: str, failures: int, budget: int, in_a_row: int) -> Verdict:
    if failures > budget:
        return Verdict(again=False, spent=f"runPolicy.retries.{name} is {budget}")
    return Verdict(again=True, pause=pause(in_a_row))


def _budget(job: JobFacts) -> RetryBudget:
    given, default = fields.block(job.spec, "runPolicy", "retries"), RetryBudget()
    return RetryBudget.model_construct(
        infrastructure=fields.number(given.get("infrastructure"), default.infrastructure),
        out_of_memory=fields.number(given.get("outOfMemory"), default.out_of_memory),
    )


def _class(attempt: Attempt) -> FailureClass:
    failure = ledger.reason_of(attempt).meaning.failure
    if failure is FailureClass.OUT_OF_MEMORY and attempt.job.endswith(Role.PREFLIGHT.suffix):
        # No smaller micro-batch helps a check that needs more than the job's memory.
        return FailureClass.USER_ERROR
    return failure
