"""Uploads a folder and sees that it has arrived.

Used by `publish` for outputs and by `checkpoints.store`. The store's own checksums guard the way; here
the sizes are looked up once all files are there.
"""

from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.output_manifest import OutputFile
from finetune_trainer.selection import sha256
from finetune_trainer.storage import Place


def upload(folder: Path, place: Place) -> list[OutputFile]:
    """Store every file of a folder; returns them with their SHA-256.

    Raises:
        TrainerError: StorageCorrupted if a file is not there in its size afterwards; anything about
            storage.
    """
    # Some stores make a bucket that is missing when an administrator uploads to it, but not for this.
    place.listing()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [_upload(path, path.relative_to(folder).as_posix(), place) for path in paths]
    sizes = {file.name: file.size for file in place.listing()}
    for file in files:
        if sizes.get(file.path) != file.size_bytes:
            message = f"{place.uri}/{file.path} has {file.size_bytes} bytes, and the store has"
            found = f"{sizes[file.path]}" if file.path in sizes else "no such object"
            raise TrainerError(Reason.STORAGE_CORRUPTED, f"{message} {found}")
    return files


def _upload(path: Path, name: str, place: Place) -> OutputFile:
    place.put(path, name)
    return OutputFile(path=name, size_bytes=path.stat().st_size, sha256=sha256(path))
