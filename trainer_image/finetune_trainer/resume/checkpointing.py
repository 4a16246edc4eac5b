"""When a run is saved, and how it ends when it is told to: after a step, with a checkpoint.

Made by `recipes.session` for training. Saving is two things: writing a folder, for which training
waits, and publishing it, which goes on beside training. With several processes, all call the same
methods after the same steps; rank 0 alone writes and publishes.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.meta import AUTO
from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import processes, termination
from finetune_trainer.checkpoints import (
    BackgroundPublisher,
    CheckpointStore,
    Fence,
    Found,
    Identity,
    require_same,
)
from finetune_trainer.context import Context
from finetune_trainer.errors import StopRequestedError, TrainerError
from finetune_trainer.resume.pace import MARGIN_SECONDS, SHARE, Pace
from finetune_trainer.storage import Place

logger = logging.getLogger(__name__)

DEFAULT_KEEP = 2
_FIELD = "checkpoints.everySteps"


class Checkpointing:
    """The checkpoints of one attempt.

    Args:
        context: The run.
        identity: What must not change between attempts.
        capture: Writes all that the run must remember into a folder.

    Attributes:
        waited: Seconds that training has waited for saves.
    """

    def __init__(
        self, context: Context, identity: Identity, capture: Callable[[Path], None]
    ) -> None:
        self._context, self._identity, self._capture = context, identity, capture
        spec = context.run.spec.checkpoints
        self._folder = context.scratch / "checkpoints"
        self._store = CheckpointStore(context.output, context.run)
        self._publisher: BackgroundPublisher | None = None
        self._every = None if spec.every_steps == AUTO else int(spec.every_steps)
        self._keep = spec.keep or DEFAULT_KEEP
        self._why_not = _why_not(context)
        self._kept = self._why_not is None
        self._pace = Pace()
        self._last = 0
        self._found: Found | None = None
        self.waited = 0.0

    @property
    def fence(self) -> Fence | None:
        """The right to write to the output, if it was taken."""
        return self._store.fence if self._kept and processes.is_main() else None

    def open(self) -> Path | None:
        """Take over the job's checkpoints; returns the newest one's folder, or None without any.

        Raises:
            TrainerError: ResumeIncompatible with all differences; Fenced; anything about storage.
        """
        if not self._kept:
            return None
        found = self._newest()
        if found is None:
            return None
        require_same(found.manifest.identity, self._identity, found.status.uri)
        self._found, self._last = found, found.status.step
        self._context.reporter.resumed(found.status)
        logger.info("going on from %s", found.status.uri)
        return found.folder

    def _newest(self) -> Found | None:
        """The newest whole checkpoint by rank 0's reading: all must go on from the same one."""
        folder = self._folder / f"resumed-{processes.local_rank()}"
        found: Found | None = None
        if processes.is_main():
            self._store.claim()
            found = self._store.newest(folder)
        name = processes.gather_objects(found.name if found else None)[0]
        if name is None or processes.is_main():
            return found
        return self._store.named(name, folder)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within, steps are counted and a stop waits for the end of its step."""
        if not self._kept:
            yield
            return
        if processes.is_main():
            told = self._context.reporter.published
            self._publisher = BackgroundPublisher(self._store, self._keep, published=told)
        self._pace = Pace()
        try:
            with termination.deferred(self._allowance):
                yield
        finally:
            if self._publisher:
                self._publisher.close()

    def after_step(self, step: int) -> None:
        """Save the run if it is time to, and end it if it was told to.

        Raises:
            StopRequestedError: A signal came; what could be saved is saved.
            TrainerError: Fenced; what capturing raises.
        """
        if not self._kept:
            return
        self._pace.step_done()
        stopping = self._stopping()
        if stopping or self._due(step):
            self._save(step)
            stopping = stopping or self._stopping()
        if stopping:
            self._stop(step)

    def resolved(self) -> list[Resolved]:
        """How often the run is saved, if it was for us to say and is known."""
        if self._why_not:
            return [Resolved(field=_FIELD, value="never", why=self._why_not)]
        auto = self._context.run.spec.checkpoints.every_steps == AUTO
        if not auto or self._every is None:
            return []
        step, wait = self._pace.step_seconds or 0.0, self._pace.wait_seconds or 0.0
        why = (
            f"every {self._pace.interval():.0f} s: a step takes {step:.3g} s, and training waits "
            f"{wait:.2g} s for a save, at most {SHARE:.0%} of its time"
        )
        return [Resolved(field=_FIELD, value=str(self._every), why=why)]

    def _due(self, step: int) -> bool:
        if self._every is not None:
            return step - self._last >= self._every
        return processes.any_of(self._pace.probing)

    def _save(self, step: int) -> None:
        begin = time.monotonic()
        folder = self._folder / f"step-{step}"
        shutil.rmtree(folder, ignore_errors=True)
        self._capture(folder)
        if self._publisher:
            self._publisher.submit(folder, step, self._identity)
        self._last = step
        seconds = time.monotonic() - begin
        self.waited += seconds
        self._pace.saved(seconds)
        if processes.is_main():
            logger.info("saved step %d; training waited %.3f s for it", step, seconds)
        if self._every is None:
            # By rank 0's clock, so that all save after the same steps.
            self._every = processes.gather_objects(self._pace.steps_between())[0]
            self._context.reporter.also_resolved(self.resolved())

    def _stopping(self) -> bool:
        return processes.any_of(termination.requested() is not None)

    def _stop(self, step: int) -> None:
        termination.heed()
        request = termination.requested()
        name = request.name if request else "a signal to another process"
        since = request.since if request else time.monotonic()
        left = self._context.run.grace_seconds - MARGIN_SECONDS - (time.monotonic() - since)
        if self._publisher:
            try:
                self._publisher.drain(max(0.0, left))
            except TrainerError as error:
                logger.warning("the checkpoint of step %d is not published: %s", step, error)
        processes.barrier()
        raise StopRequestedError(name)

    def _allowance(self) -> float:
        newest = self._context.reporter.checkpoint
        known = newest.save_seconds if newest else None
        seconds = float(known) if known is not None else None
        return self._pace.allowance(self._context.run.grace_seconds, seconds)


def _why_not(context: Context) -> str | None:
    if context.laptop:
        return "a manifest that is run without Kubernetes is a new job each time"
    return None


def clear(output: Place, run: RunFile) -> None:
    """Remove the checkpoints of a job whose output is published, unless it wants some kept."""
    if run.spec.checkpoints.keep is not None or not processes.is_main():
        return
    try:
        CheckpointStore(output, run).clear()
    except TrainerError as error:
        logger.warning("the checkpoints are no longer needed but remain: %s", error.message)
