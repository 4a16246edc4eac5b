"""Whether a running attempt hangs: the lease that every step renews. Pure.

Called by `plan.decide` for trainers that run. The lease follows from how long a step has taken so
far. Two clocks must agree that it is over: the wall clock, which survives a restart of the operator
in `status.progressTime`, and the operator's own observation of a log that it could read, which no
jump of the wall clock and no unreachable node can feign.
"""

from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Progress
from finetune_operator.observe import fields
from finetune_operator.observe.facts import Facts, Pod
from finetune_operator.observe.failures import Ending
from finetune_operator.observe.progress import moved

STEPS = 20
# Twice what the trainer takes for a standstill, which it writes down before it is killed.
SHORTEST_TRAINING, SHORTEST_OTHERWISE = 600.0, 3600.0
# The share of the lease that this process must have seen pass by itself.
OBSERVED = 0.25


def lease(progress: Progress) -> float | None:
    """Seconds that the progress may stay as it is; None before the first step.

    What comes before the first step takes as long as model and data are large; it is bounded by
    `runPolicy.startupDeadlineSeconds`. Evaluating, saving and publishing have no steps to go by, and
    get an hour at least.
    """
    if progress.step < 1:
        return None
    shortest = SHORTEST_TRAINING if progress.phase == "Training" else SHORTEST_OTHERWISE
    seconds = step_seconds(progress)
    return max(shortest if seconds is not None else SHORTEST_OTHERWISE, STEPS * (seconds or 0))


def step_seconds(progress: Progress | None) -> float | None:
    """Mean seconds of a step, from the trainer's own estimate of the time that is left."""
    if progress is None or progress.eta_seconds is None or progress.total_steps is None:
        return None
    left = progress.total_steps - progress.step
    return progress.eta_seconds / left if left > 0 else None


def hung(facts: Facts, now: datetime) -> Ending | None:
    """The ending of trainers that make no progress; None while the lease holds."""
    progress = facts.job.status.progress
    rank_0 = next((pod for pod in facts.pods if pod.index == 0), None)
    if progress is None or rank_0 is None or facts.job.between_attempts:
        return None
    # One that was told to stop saves, for as long as its grace period lasts.
    if not rank_0.running or rank_0.deletion is not None:
        return None
    allowed = lease(progress)
    if allowed is None or (facts.tail.progress and moved(progress, facts.tail.progress)):
        return None
    silent = _silent_seconds(facts, rank_0, now)
    if silent <= allowed or facts.tail.silent_seconds < OBSERVED * allowed:
        return None
    message = f"{_message(progress, silent)}; {_kept(facts)}"
    return Ending(Reason.HANG, message, pod=rank_0, time=now)


def _silent_seconds(facts: Facts, rank_0: Pod, now: datetime) -> float:
    since = [fields.time(facts.job.status.progress_time), rank_0.created]
    return (now - max((each for each in since if each), default=now)).total_seconds()


def _kept(facts: Facts) -> str:
    return f"where each process stood is below {facts.job.output_uri.rstrip('/')}/diagnostics/"


def _message(progress: Progress, silent: float) -> str:
    usual = step_seconds(progress)
    said = f"; a step took {usual:.3g} s before" if usual is not None else ""
    return f"no progress for {silent:.0f} s in phase {progress.phase} at step {progress.step}{said}"
