"""Places on this machine: `file://` on a laptop, `pvc://` volumes in a pod.

Made by `storage.Storage`. A volume is shared with other pods of its tenant, so every path is
resolved and must stay inside the volume.
"""

import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.place import StoredFile, Versioned

# Files that are not there for readers: drafts of what is being written, and locks.
_HIDDEN = ".~"


@dataclass(frozen=True)
class LocalPlace:
    """A folder or file of the file system.

    Attributes:
        uri: As the user wrote it.
        path: Where it is here.
        root: Folder that no path may leave, symbolic links followed; None for no limit.
        missing: Reason when there is nothing.
    """

    uri: str
    path: Path
    root: Path | None
    missing: Reason

    @property
    def identity(self) -> str:
        """The URI."""
        return self.uri

    def files(self) -> tuple[StoredFile, ...]:
        """All files below, or the one that this is."""
        self._check(self.path)
        if self.path.is_file():
            return (StoredFile(self.path.name, self.path.stat().st_size, str(self.path)),)
        found = self.listing()
        if not found:
            raise TrainerError(self.missing, f"{self.uri}: no such file, and no folder with files")
        return found

    def fetch(self, files: Sequence[StoredFile], folder: Path) -> Path:
        """Nothing is copied: the files are used where they are."""
        del files, folder
        return self.path.parent if self.path.is_file() else self.path

    def read(self, name: str) -> bytes | None:
        """A file's content, or None."""
        path = self._inside(name)
        return path.read_bytes() if path.is_file() else None

    def put(self, source: Path, name: str) -> None:
        """Copy a file here."""
        target = self._writable(name)
        with self._draft(target) as draft:
            shutil.copyfile(source, draft)
            draft.replace(target)

    def put_new(self, name: str, content: bytes) -> bool:
        """Create a file; False if it exists."""
        target = self._writable(name)
        # Linked into place when whole: a reader never sees half a file, and one writer wins.
        with self._draft(target) as draft:
            draft.write_bytes(content)
            try:
                target.hardlink_to(draft)
            except FileExistsError:
                return False
        return True

    def read_versioned(self, name: str) -> Versioned | None:
        """A file's content with its digest, or None."""
        content = self.read(name)
        return None if content is None else Versioned(content, _version(content))

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Overwrite a file that has that digest; False if it has another or is absent."""
        target = self._writable(name)
        with self._locked(target), self._draft(target) as draft:
            found = self.read_versioned(name)
            if found is None or found.version != version:
                return False
            draft.write_bytes(content)
            draft.replace(target)
        return True

    def listing(self) -> tuple[StoredFile, ...]:
        """All files below, sorted by name; an absent folder has none."""
        self._check(self.path)
        found = sorted(path for path in self.path.rglob("*") if path.is_file())
        return tuple(self._stored(path) for path in found if not path.name.startswith(_HIDDEN))

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        path = self._inside(name)
        path.unlink(missing_ok=True)
        _lock_of(path).unlink(missing_ok=True)

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove files, and the folders that are empty then."""
        for name in names:
            self.delete(name)
            self._prune(self._inside(name).parent)

    def discard_unfinished(self) -> int:
        """Remove the drafts of writers that were killed."""
        drafts = [path for path in self.path.rglob(f"{_HIDDEN}*.draft") if path.is_file()]
        for draft in drafts:
            draft.unlink(missing_ok=True)
        return len(drafts)

    def below(self, name: str) -> "LocalPlace":
        """A folder below this one."""
        return LocalPlace(f"{self.uri}/{name}", self.path / name, self.root, self.missing)

    def _stored(self, path: Path) -> StoredFile:
        self._check(path)
        name = path.relative_to(self.path).as_posix()
        return StoredFile(name, path.stat().st_size, str(path))

    def _inside(self, name: str) -> Path:
        path = self.path / name
        self._check(path)
        return path

    def _writable(self, name: str) -> Path:
        path = self._inside(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._denied(error) from None
        return path

    @contextmanager
    def _draft(self, target: Path) -> Iterator[Path]:
        # Beside the target, because only within one file system a rename is atomic.
        draft = target.with_name(
            f"{_HIDDEN}{target.name}.{os.getpid()}-{threading.get_ident()}.draft"
        )
        try:
            yield draft
        except PermissionError as error:
            raise self._denied(error) from None
        finally:
            draft.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, target: Path) -> Iterator[None]:
        with _lock_of(target).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _prune(self, folder: Path) -> None:
        while folder != self.path and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent

    def _check(self, path: Path) -> None:
        if self.root and not path.resolve().is_relative_to(self.root.resolve()):
            message = f"{self.uri}: {path.name} leads out of the volume"
            raise TrainerError(Reason.INVALID_SPEC, message, "Symbolic links must stay inside.")

    def _denied(self, error: OSError) -> TrainerError:
        message = f"{self.uri}: cannot be written: {error.strerror}"
        return TrainerError(Reason.STORAGE_ACCESS_DENIED, message, "Check the folder's owner.")


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{_HIDDEN}{path.name}.lock")
