"""What is known of the cluster, as slim facts by FineTuneJob.

Filled by the handlers, by reads and by answers to our own writes; read by the reconciler. Older
versions of an object never replace newer ones, and a deleted object never comes back.
"""

from collections.abc import Callable
from dataclasses import replace

from finetune_operator.observe.facts import ChildJob, Facts, JobFacts, Key, Pod, Role, Tail
from finetune_operator.observe.progress import moved, newer
from finetune_operator.plan import names
from finetune_operator.shelf import Shelf
from finetune_operator.waiters import JobShelf


class Store:
    """All shelves, and what was learnt from logs and events.

    Args:
        wake: Is told the jobs that must be looked at anew, since a job changed that they wait for.
    """

    def __init__(self, wake: Callable[[Key], None] = lambda _: None) -> None:
        self.jobs = JobShelf(wake)
        self.children: Shelf[ChildJob] = Shelf()
        self.pods: Shelf[Pod] = Shelf()
        # With the UID of the Job whose pod said it.
        self._tails: dict[Key, tuple[str, Tail]] = {}
        # The pod that was read, and the operator's clock when its progress was new.
        self._news: dict[Key, tuple[str, float]] = {}
        self._obstacles: dict[Key, str] = {}

    def job(self, key: Key) -> JobFacts | None:
        """The FineTuneJob, if there is one."""
        return next(iter(self.jobs.of(key)), None)

    def facts(self, key: Key, *, confirmed: bool = False) -> Facts | None:
        """Everything known of one job; None if there is no such job."""
        job = self.job(key)
        if job is None:
            return None
        child, preflight = (self.child(job, role) for role in (Role.TRAINER, Role.PREFLIGHT))
        return Facts(
            job=job,
            child=child,
            pods=self._pods(key, child),
            preflight=preflight,
            preflight_pods=self._pods(key, preflight),
            older=self._older(job),
            older_pods=self._older_pods(job),
            sources=self._sources(job),
            tail=self._tail(key, child),
            obstacle=self._obstacles.get(key),
            confirmed=confirmed,
        )

    def child(self, job: JobFacts, role: Role = Role.TRAINER) -> ChildJob | None:
        """The newest attempt's Job of this role, or what stands in its place."""
        wanted = names.child_name(job, role)
        return next((each for each in self.children.of(job.key) if each.name == wanted), None)

    def _older(self, job: JobFacts) -> tuple[ChildJob, ...]:
        """Jobs of ended attempts that did not end by themselves, or that no list names any more."""
        found = [each for each in self.children.of(job.key) if each.is_of(job)]
        oldest = min((each.number for each in job.status.attempts or ()), default=1)
        return tuple(
            each for each in found
            if each.attempt < oldest or (not each.finished and each.attempt < job.attempt_number)
        )  # fmt: skip

    def _older_pods(self, job: JobFacts) -> tuple[Pod, ...]:
        if not job.between_attempts:
            return ()
        return tuple(pod for pod in self.pods.of(job.key) if names.is_older(job, pod.job))

    def _pods(self, key: Key, child: ChildJob | None) -> tuple[Pod, ...]:
        pods = [pod for pod in self.pods.of(key) if child is not None and pod.job_uid == child.uid]
        return tuple(sorted(pods, key=lambda pod: (pod.index, pod.name)))

    def _sources(self, job: JobFacts) -> dict[str, JobFacts]:
        """The jobs that it waits for, those that they wait for, and so on."""
        found: dict[str, JobFacts] = {}
        wanted = list(job.awaits)
        while wanted:
            name = wanted.pop()
            other = self.job(Key(job.key.namespace, name))
            if other is not None and name not in found:
                found[name] = other
                wanted += other.awaits
        return found

    def _tail(self, key: Key, child: ChildJob | None) -> Tail:
        """What was said last; a preflight's words are not those of the trainers after it."""
        uid, tail = self._tails.get(key, ("", Tail()))
        return tail if child is None or child.uid == uid else Tail()

    def learn_tail(self, key: Key, pod: Pod, tail: Tail, clock: float) -> None:
        """Keep what the end of a pod's log said.

        Args:
            key: The job.
            pod: The pod that was read.
            tail: What it said.
            clock: When it was read, on a clock that never jumps.
        """
        uid, known = self._tails.get(key, (pod.job_uid, Tail()))
        read = newer(known, tail) if uid == pod.job_uid else tail
        reader, since = self._news.get(key, ("", clock))
        if reader != pod.uid or moved(known.progress, read.progress):
            since = clock
        self._news[key] = (pod.uid, since)
        self._tails[key] = (pod.job_uid, replace(read, silent_seconds=clock - since))

    def learn_obstacle(self, key: Key, obstacle: str | None) -> None:
        """Keep, or forget, what a job waits for."""
        if obstacle is None:
            self._obstacles.pop(key, None)
        else:
            self._obstacles[key] = obstacle

    def settle(self, key: Key) -> None:
        """Drop what an ended job no longer needs."""
        self.children.forget(key)
        self.pods.forget(key)
        self._tails.pop(key, None)
        self._news.pop(key, None)
        self._obstacles.pop(key, None)
