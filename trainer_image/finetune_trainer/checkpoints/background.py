"""Publishing beside training: one upload at a time, the newest checkpoint next, failures told.

The training session submits folders and drains at the end. A failed upload does not end training: the
next checkpoint takes its place, and `drain` tries the last one until its time is up. Only a lost fence
ends the run, at the next `submit` or `drain`.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import CheckpointStatus
from finetune_trainer.checkpoints.identity import Identity
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.errors import TrainerError

logger = logging.getLogger(__name__)

DEFAULT_KEEP = 2
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class _Save:
    folder: Path
    step: int
    about: Identity
    since: float


class BackgroundPublisher:
    """Publishes checkpoints in a thread of its own.

    At most two folders are held: the one in flight and the newest that waits. A waiting one that a
    newer one overtakes is dropped.

    Args:
        store: Where to; its fence must have been claimed.
        keep: How many checkpoints stay in storage.
        published: Told of each that was published, in the thread.
        failed: Told of each failure, in the thread.
    """

    def __init__(
        self,
        store: CheckpointStore,
        keep: int = DEFAULT_KEEP,
        *,
        published: Callable[[CheckpointStatus], None] = lambda _: None,
        failed: Callable[[TrainerError], None] = lambda _: None,
    ) -> None:
        self._store, self._keep = store, keep
        self._published, self._failed = published, failed
        self._changed = threading.Condition()
        self._waiting: _Save | None = None
        self._unpublished: _Save | None = None
        self._busy = self._closed = False
        self._error: Exception | None = None
        self._newest: CheckpointStatus | None = None
        # A daemon, because nothing may keep a stopped run from ending.
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    @property
    def newest(self) -> CheckpointStatus | None:
        """The newest checkpoint that this process has published."""
        with self._changed:
            return self._newest

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight and nothing waits."""
        with self._changed:
            return not self._busy and self._waiting is None

    def submit(self, folder: Path, step: int, about: Identity) -> None:
        """Publish a folder soon; returns at once.

        Args:
            folder: The checkpoint. It belongs to the publisher from here on, which removes it.
            step: Step that it was taken at.
            about: What must be the same for a run to go on from it.

        Raises:
            TrainerError: Fenced if an earlier upload found that out.
        """
        self._raise_if_fatal()
        with self._changed:
            dropped = (self._waiting, self._unpublished)
            self._waiting, self._unpublished = _Save(folder, step, about, time.monotonic()), None
            self._changed.notify_all()
        for save in dropped:
            _discard(save)

    def drain(self, seconds: float) -> CheckpointStatus | None:
        """Wait until all that was submitted is published; returns the newest.

        A failed one is tried again until the time is up.

        Args:
            seconds: How long at most.

        Raises:
            TrainerError: What stands in the way of the last one, or StorageUnavailable if it still
                goes on when the time is up.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._wait_idle(deadline)
            self._raise_if_fatal()
            with self._changed:
                if self._unpublished is None:
                    return self._newest
                error = self._error
            if time.monotonic() + _PAUSE_SECONDS >= deadline and error:
                raise error
            time.sleep(_PAUSE_SECONDS)
            self._retry()

    def close(self, seconds: float = 5.0) -> None:
        """Take nothing more, and let what is under way end.

        Args:
            seconds: How long to wait for that at most.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _retry(self) -> None:
        with self._changed:
            if self._waiting is None:
                self._waiting, self._unpublished = self._unpublished, None
            self._changed.notify_all()

    def _wait_idle(self, deadline: float) -> None:
        with self._changed:
            idle = self._changed.wait_for(
                lambda: not self._busy and self._waiting is None,
                timeout=max(0.0, deadline - time.monotonic()),
            )
        if not idle:
            message = "the last checkpoint was still being uploaded when its time was up"
            raise TrainerError(Reason.STORAGE_UNAVAILABLE, message)

    def _raise_if_fatal(self) -> None:
        with self._changed:
            error = self._error
        if error is not None and _is_fatal(error):
            raise error

    def _work(self) -> None:
        while (save := self._take()) is not None:
            result = self._publish(save)
            self._end(save, result)
            if isinstance(result, CheckpointStatus):
                self._prune()

    def _publish(self, save: _Save) -> CheckpointStatus | Exception:
        try:
            status = self._store.publish(save.folder, save.step, save.about, since=save.since)
            self._published(status)
        except Exception as error:  # noqa: BLE001 - told to the main thread
            logger.warning("checkpoint of step %d was not published: %s", save.step, error)
            self._failed(_typed(error))
            return error
        _discard(save)
        return status

    def _take(self) -> _Save | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting is not None)
            if self._closed:
                return None
            save, self._waiting, self._busy = self._waiting, None, True
            return save

    def _end(self, save: _Save, result: CheckpointStatus | Exception) -> None:
        overtaken = None
        with self._changed:
            self._busy = False
            if isinstance(result, CheckpointStatus):
                self._newest, self._error = result, None
            elif self._waiting is None:
                # Still worth having, as long as there is no newer one.
                self._error, self._unpublished = result, save
            else:
                self._error, overtaken = result, save
            self._changed.notify_all()
        _discard(overtaken)

    def _prune(self) -> None:
        try:
            self._store.prune(self._keep)
        except Exception as error:  # noqa: BLE001 - the next prune removes them
            logger.warning("old checkpoints were not removed: %s", error)


def _discard(save: _Save | None) -> None:
    if save is not None:
        shutil.rmtree(save.folder, ignore_errors=True)


def _is_fatal(error: Exception) -> bool:
    return not isinstance(error, TrainerError) or error.reason is Reason.FENCED


def _typed(error: Exception) -> TrainerError:
    if isinstance(error, TrainerError):
        return error
    return TrainerError(Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
