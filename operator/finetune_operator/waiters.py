"""The FineTuneJobs that are known, and who waits for whose output.

Used by the store. Whoever waits for a job is woken when that job comes, goes, ends or changes its
state, so that nobody has to ask. Progress wakes nobody.
"""

from collections.abc import Callable

from finetune_operator.observe.facts import JobFacts, Key
from finetune_operator.plan.status import state_word
from finetune_operator.shelf import Shelf


class JobShelf(Shelf[JobFacts]):
    """A shelf of jobs with an index from each job to those that wait for it.

    Args:
        wake: Is told every job that must be looked at anew.
    """

    def __init__(self, wake: Callable[[Key], None]) -> None:
        super().__init__()
        self._wake = wake
        self._waiting: dict[Key, set[Key]] = {}

    def put(self, item: JobFacts) -> bool:
        """Keep a job, unless a newer version is here or it was deleted; says whether kept."""
        before = self.one(item.key)
        kept = super().put(item)
        if kept:
            self._changed(item.key, before, item)
        return kept

    def forget(self, key: Key) -> None:
        """Drop a job, which may come again."""
        before = self.one(key)
        super().forget(key)
        self._changed(key, before, None)

    def one(self, key: Key) -> JobFacts | None:
        """The job of this name."""
        return next(iter(self.of(key)), None)

    def _remove(self, item: JobFacts) -> None:
        super()._remove(item)
        self._changed(item.key, item, None)

    def _changed(self, key: Key, before: JobFacts | None, after: JobFacts | None) -> None:
        self._index(key, before, after)
        if _standing(before) != _standing(after):
            for waiting in self._waiting.get(key, ()):
                self._wake(waiting)

    def _index(self, key: Key, before: JobFacts | None, after: JobFacts | None) -> None:
        old, new = (_awaited(job) for job in (before, after))
        for awaited in old - new:
            self._waiting[awaited].discard(key)
            if not self._waiting[awaited]:
                del self._waiting[awaited]
        for awaited in new - old:
            self._waiting.setdefault(awaited, set()).add(key)


def _awaited(job: JobFacts | None) -> set[Key]:
    return {Key(job.key.namespace, name) for name in job.awaits} if job else set()


def _standing(job: JobFacts | None) -> tuple[str, str] | None:
    return (job.uid, state_word(job.status.conditions or ())) if job else None
