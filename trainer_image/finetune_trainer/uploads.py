"""Uploads a folder and sees that it has arrived.

Used by `publish` for outputs and by `checkpoints.store`. The store's own checksums guard the way; here
the sizes are looked up once all files are there.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.output_manifest import OutputFile
from finetune_trainer.selection import sha256
from finetune_trainer.storage import Place, StoredFile
from finetune_trainer.storage.again import patiently

T = TypeVar("T")


def upload(folder: Path, place: Place, *, patient: bool = False) -> list[OutputFile]:
    """Store every file of a folder; returns them with their SHA-256.

    Args:
        folder: What is uploaded.
        place: Where to.
        patient: Wait for a store that is away, rather than fail.

    Raises:
        TrainerError: StorageCorrupted if a file is not there in its size afterwards; anything about
            storage.
    """
    attempt = patiently if patient else _once
    # Some stores make a bucket that is missing when an administrator uploads to it, but not for this.
    attempt(place.listing)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [
        attempt(partial(_upload, path, path.relative_to(folder).as_posix(), place))
        for path in paths
    ]
    _require_sizes(files, place, attempt(place.listing))
    return files


def _upload(path: Path, name: str, place: Place) -> OutputFile:
    place.put(path, name)
    return OutputFile(path=name, size_bytes=path.stat().st_size, sha256=sha256(path))


def _require_sizes(
    files: Sequence[OutputFile], place: Place, listing: Sequence[StoredFile]
) -> None:
    sizes = {file.name: file.size for file in listing}
    for file in files:
        if sizes.get(file.path) != file.size_bytes:
            message = f"{place.uri}/{file.path} has {file.size_bytes} bytes, and the store has"
            found = f"{sizes[file.path]}" if file.path in sizes else "no such object"
            raise TrainerError(Reason.STORAGE_CORRUPTED, f"{message} {found}")


def _once(action: Callable[[], T]) -> T:
    return action()
