"""Places on this machine: `file://` on a laptop, `pvc://` volumes in a pod.

Made by `storage.Storage`. A volume is shared with other pods of its tenant, so every path is
resolved and must stay inside the volume.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.place import StoredFile


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
        found = sorted(path for path in self.path.rglob("*") if path.is_file())
        if not found:
            raise TrainerError(self.missing, f"{self.uri}: no such file, and no folder with files")
        return tuple(self._stored(path) for path in found)

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
        try:
            shutil.copyfile(source, target)
        except PermissionError as error:
            raise self._denied(error) from None

    def put_new(self, name: str, content: bytes) -> bool:
        """Create a file; False if it exists."""
        target = self._writable(name)
        # Linked into place when whole: a reader never sees half a file, and one writer wins.
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            draft.write_bytes(content)
            target.hardlink_to(draft)
        except FileExistsError:
            return False
        except PermissionError as error:
            raise self._denied(error) from None
        finally:
            draft.unlink(missing_ok=True)
        return True

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        self._inside(name).unlink(missing_ok=True)

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

    def _check(self, path: Path) -> None:
        if self.root and not path.resolve().is_relative_to(self.root.resolve()):
            message = f"{self.uri}: {path.name} leads out of the volume"
            raise TrainerError(Reason.INVALID_SPEC, message, "Symbolic links must stay inside.")

    def _denied(self, error: OSError) -> TrainerError:
        message = f"{self.uri}: cannot be written: {error.strerror}"
        return TrainerError(Reason.STORAGE_ACCESS_DENIED, message, "Check the folder's owner.")
