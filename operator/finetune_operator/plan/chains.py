"""Sources that are the output of another job: found, waited for, or refused. Pure.

Called by `plan.beginning` before a Job is created. `job://name` means a FineTuneJob of the same
namespace; once that is Complete, its `spec.output.uri` is what the trainer reads, so that the
trainer needs no Kubernetes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import ConditionType, Reason
from finetune_operator.observe.facts import Facts, JobFacts
from finetune_operator.observe.jobs import JOB_SCHEME
from finetune_operator.plan.refusals import Refusal
from finetune_operator.plan.status import Statement, accepted, state_word


@dataclass(frozen=True)
class Chain:
    """How the jobs stand whose output a job reads.

    Attributes:
        sources: `job://name` -> where its output lies, of those that are Complete.
        refusal: Why the job can never start, as things are.
        waiting: What it waits for, as a sentence; empty if for nothing.
        absent: Whether a job that it reads is not known.
    """

    sources: Mapping[str, str]
    refusal: Refusal | None = None
    waiting: str = ""
    absent: bool = False

    @property
    def accepted(self) -> Statement:
        """The condition Accepted, as far as the sources go."""
        if self.refusal:
            return Statement(
                ConditionType.ACCEPTED, False, self.refusal.reason, self.refusal.message
            )
        if self.waiting:
            return Statement(ConditionType.ACCEPTED, False, Reason.WAITING_FOR_JOB, self.waiting)
        return accepted()


def chain(spec: FineTuneJobSpec, facts: Facts) -> Chain:
    """What a job may read, waits for, or fails of."""
    reads = spec.source_jobs()
    found = {name: facts.sources.get(name) for name in reads}
    complete = {name: job.output_uri for name, job in found.items() if job and job.complete}
    waited_for = {name: job for name, job in found.items() if name not in complete}
    return Chain(
        sources={f"{JOB_SCHEME}{name}": uri for name, uri in complete.items()},
        refusal=_refusal(reads, facts),
        waiting=_waiting(waited_for),
        absent=None in waited_for.values(),
    )


def _refusal(reads: Mapping[str, str], facts: Facts) -> Refusal | None:
    for name, path in reads.items():
        circle = _circle(facts.job.name, name, facts.sources)
        if circle:
            way = " → ".join([facts.job.name, *circle])
            message = f"spec.{path}: the job would wait for itself: {way}"
            return Refusal(Reason.SOURCE_JOB_CYCLE, message)
        job = facts.sources.get(name)
        if job is not None and job.ended and not job.complete:
            return Refusal(Reason.SOURCE_JOB_FAILED, f"spec.{path}: {_failure(job)}")
    return None


def _failure(job: JobFacts) -> str:
    failure = job.status.failure
    why = f" ({failure.reason}): {failure.message}" if failure else ""
    return f"job {job.name} failed{why}"


def _circle(start: str, name: str, jobs: Mapping[str, JobFacts]) -> list[str]:
    """The names on the way from `name` back to `start`, which is the last; empty without a way."""
    came_from: dict[str, str | None] = {name: None}
    queue = [name]
    for here in queue:
        if here == start:
            return _way(here, came_from)
        for there in jobs[here].awaits if here in jobs else ():
            if there not in came_from:
                came_from[there] = here
                queue.append(there)
    return []


def _way(end: str, came_from: Mapping[str, str | None]) -> list[str]:
    way: list[str] = []
    here: str | None = end
    while here is not None:
        way.insert(0, here)
        here = came_from[here]
    return way


def _waiting(jobs: Mapping[str, JobFacts | None]) -> str:
    if not jobs:
        return ""
    return f"waits for the output of {', '.join(_named(jobs.items()))}"


def _named(jobs: Iterable[tuple[str, JobFacts | None]]) -> Iterable[str]:
    for name, job in jobs:
        state = state_word(job.status.conditions or ()) if job else "does not exist yet"
        yield f"job {name} ({state})"
