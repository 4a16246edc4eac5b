"""Files that were chosen from a place, and how they come to this machine intact.

Made by `inputs` for data and by `sources` for models, when a place was listed; fetched later.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Source, StoredFile


@dataclass(frozen=True)
class Selection:
    """Some files of a place.

    Attributes:
        place: Where they lie.
        files: Those that are used.
        digests: SHA-256 by file name, for the files whose digest is known.
    """

    place: Source
    files: tuple[StoredFile, ...]
    digests: Mapping[str, str] = field(default_factory=dict)

    def without(self, suffix: str) -> "Selection":
        """The same but for the files whose name ends so."""
        return replace(self, files=tuple(f for f in self.files if not f.name.endswith(suffix)))

    def fetch(self, folder: Path) -> Path:
        """Make the files readable locally; returns the folder that holds them.

        Raises:
            TrainerError: CorruptModel if a file does not have the digest that was promised.
        """
        local = self.place.fetch(self.files, folder)
        for file in self.files:
            expected = self.digests.get(file.name)
            if expected is not None and sha256(local / file.name) != expected:
                message = f"{self.place.uri}/{file.name} does not have the SHA-256 of its manifest"
                raise TrainerError(Reason.CORRUPT_MODEL, message)
        return local


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
