"""The checkpoints of one job in storage: taken over, found, published, kept and removed.

Used by the training session and by `background`. The order of writes is the protocol: files first,
their sizes looked up, the fence looked at, the manifest, and `latest.json` last.
"""

import logging
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import CheckpointStatus
from finetune_trainer.checkpoints.fence import Fence
from finetune_trainer.checkpoints.identity import Identity
from finetune_trainer.checkpoints.manifest import (
    MANIFEST,
    CheckpointManifest,
    checkpoints_prefix,
)
from finetune_trainer.checkpoints.shelf import Entry, Shelf
from finetune_trainer.errors import TrainerError
from finetune_trainer.selection import Selection
from finetune_trainer.storage import Place
from finetune_trainer.uploads import upload

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A checkpoint that was fetched whole.

    Attributes:
        name: Of its folder in storage.
        folder: Its files on this machine.
        manifest: What they are.
        status: For the report.
    """

    name: str
    folder: Path
    manifest: CheckpointManifest
    status: CheckpointStatus


class CheckpointStore:
    """The checkpoints of one job.

    Args:
        output: The place of `spec.output.uri`.
        run: The attempt that reads and writes.

    Attributes:
        fence: The right to write.
    """

    def __init__(self, output: Place, run: RunFile) -> None:
        self._run = run
        self._place = output.below(checkpoints_prefix(run.job))
        self._damaged: set[str] = set()
        self._made: tuple[str, CheckpointManifest] | None = None
        self.fence = Fence(output, run)

    def claim(self) -> None:
        """Become the writer of this job, and remove what dead attempts left unfinished.

        Call it before anything is published or removed, once.

        Raises:
            TrainerError: Fenced if a newer attempt is the writer.
        """
        self.fence.take()
        try:
            self._collect_orphans()
        except TrainerError as error:
            # They cost room and nothing else, and not every key may list uploads or delete.
            logger.warning("unfinished checkpoints were not removed: %s", error.message)

    def _collect_orphans(self) -> None:
        shelf = self._shelf()
        orphans = [e for e in shelf.entries if not e.published and e.attempt <= self._run.attempt]
        for orphan in orphans:
            self._remove(orphan)
        aborted = self._place.discard_unfinished()
        if orphans or aborted:
            logger.info("removed %d unfinished checkpoints, %d uploads", len(orphans), aborted)

    def newest(self, folder: Path) -> Found | None:
        """Fetch the newest checkpoint of this job that is whole.

        One that is not, by its manifest, sizes or digests, is skipped with a warning.

        Args:
            folder: Gets the files, unless they are readable where they lie; is emptied first.

        Raises:
            TrainerError: The store does not answer.
        """
        for entry in self._shelf().newest_first():
            shutil.rmtree(folder, ignore_errors=True)
            found = self._fetch(entry, folder)
            if found:
                return found
            self._damaged.add(entry.folder)
        return None

    def named(self, name: str, folder: Path) -> Found:
        """Fetch the very checkpoint that another process of this attempt has found.

        Args:
            name: Its `Found.name`.
            folder: As for `newest`.

        Raises:
            TrainerError: StorageCorrupted if it is not whole here; anything about storage.
        """
        shutil.rmtree(folder, ignore_errors=True)
        entries = [entry for entry in self._shelf().entries if entry.folder == name]
        found = self._fetch(entries[0], folder) if entries else None
        if found is None:
            message = f"{self._place.uri}/{name} is not whole, and another process has read it"
            raise TrainerError(Reason.STORAGE_CORRUPTED, message)
        return found

    def publish(
        self, folder: Path, step: int, about: Identity, *, since: float | None = None
    ) -> CheckpointStatus:
        """Make a checkpoint of a folder exist.

        Args:
            folder: The files; they must not change meanwhile.
            step: Step that it was taken at.
            about: What must be the same for a run to go on from it.
            since: `time.monotonic()` at the end of that step; without it, now.

        Raises:
            TrainerError: Fenced if another attempt has become the writer; anything about storage.
        """
        begin = time.monotonic() if since is None else since
        if self._made is None or self._made[1].step != step:
            self._made = self._make(folder, step, about)
        # Tried again after an outage, only the pointer may be left to move.
        name, manifest = self._made
        self.fence.move(step, name)
        return self._status(name, manifest, time.monotonic() - begin)

    def prune(self, keep: int) -> None:
        """Remove all but the newest checkpoints; never the last one that is whole.

        Args:
            keep: How many stay, at least one.

        Raises:
            TrainerError: Fenced if another attempt has become the writer; anything about storage.
        """
        self.fence.require()
        whole = [entry for entry in self._shelf().newest_first() if self._is_whole(entry)]
        kept = whole[: max(1, keep)]
        if not kept:
            return
        for entry in self._shelf().entries:
            if entry.published and entry.order < kept[-1].order:
                self._remove(entry)

    def clear(self) -> None:
        """Remove every checkpoint of the job: its output is published.

        Raises:
            TrainerError: Anything about storage.
        """
        self._place.discard_unfinished()
        for entry in self._shelf().entries:
            self._remove(entry)
        self._place.delete_all([file.name for file in self._place.listing()])

    def _shelf(self) -> Shelf:
        return Shelf.of(self._place.listing())

    def _make(self, folder: Path, step: int, about: Identity) -> tuple[str, CheckpointManifest]:
        name = self._free_name(step)
        place = self._place.below(name)
        files = upload(folder, place)
        manifest = CheckpointManifest(
            job=self._run.job,
            attempt=self._run.attempt,
            step=step,
            created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            identity=about,
            files=files,
        )
        try:
            self.fence.require()
        except TrainerError as error:
            if error.reason is Reason.FENCED:
                place.delete_all([file.path for file in files])
            raise
        content = manifest.to_bytes()
        if not place.put_new(MANIFEST, content) and place.read(MANIFEST) != content:
            message = f"{place.uri}/{MANIFEST} was written by another process meanwhile"
            raise TrainerError(Reason.FENCED, message)
        return name, manifest

    def _free_name(self, step: int) -> str:
        name = f"{self._run.attempt}-{step}"
        taken = any(entry.folder == name and entry.published for entry in self._shelf().entries)
        # The same attempt, started again, comes by this step a second time.
        return f"{name}-{uuid4().hex[:8]}" if taken else name

    def _manifest(self, entry: Entry) -> CheckpointManifest | None:
        content = self._place.below(entry.folder).read(MANIFEST)
        manifest = CheckpointManifest.parse(content or b"", self._run.job)
        if manifest is None or (manifest.step, manifest.attempt) != entry.order:
            logger.warning("checkpoint %s has no readable manifest of its own", entry.folder)
            return None
        if not entry.holds(manifest):
            logger.warning("checkpoint %s lacks files that its manifest lists", entry.folder)
            return None
        return manifest

    def _is_whole(self, entry: Entry) -> bool:
        return entry.folder not in self._damaged and self._manifest(entry) is not None

    def _fetch(self, entry: Entry, folder: Path) -> Found | None:
        manifest = self._manifest(entry)
        if manifest is None:
            return None
        place = self._place.below(entry.folder)
        digests = {file.path: file.sha256 for file in manifest.files}
        listed = tuple(file for file in entry.below() if file.name in digests)
        try:
            local = Selection(place, listed, digests).fetch(folder)
        except TrainerError as error:
            if error.reason not in (Reason.CORRUPT_MODEL, Reason.STORAGE_CORRUPTED):
                raise
            logger.warning("checkpoint %s is damaged: %s", entry.folder, error.message)
            return None
        return Found(entry.folder, local, manifest, self._status(entry.folder, manifest))

    def _remove(self, entry: Entry) -> None:
        # The manifest first: what is half removed must not be taken for whole.
        manifest = f"{entry.folder}/{MANIFEST}"
        names = sorted((file.name for file in entry.files), key=lambda name: name != manifest)
        self._place.delete_all(names)

    def _status(
        self, name: str, manifest: CheckpointManifest, seconds: float | None = None
    ) -> CheckpointStatus:
        return CheckpointStatus(
            step=manifest.step,
            uri=f"{self._place.uri}/{name}",
            size_bytes=manifest.size_bytes,
            save_seconds=None if seconds is None else f"{seconds:.2f}",
        )
