"""Files that were chosen from a place, and how they come to this machine intact.

Made by `inputs` for data and by `sources` for models, when a place was listed; fetched later.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Source, StoredFile
from finetune_trainer.storage.again import TRIES

logger = logging.getLogger(__name__)


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
            TrainerError: CorruptModel if a file does not have the digest that was promised,
                StorageCorrupted if it comes with other bytes each time.
        """
        local = self.place.fetch(self.files, folder)
        for file in self.files:
            if file.name in self.digests:
                self._require(file, local, folder)
        return local

    def _require(self, file: StoredFile, local: Path, folder: Path) -> None:
        seen = [sha256(local / file.name)]
        while seen[-1] != self.digests[file.name]:
            if len(seen) == TRIES:
                raise self._damaged(file, seen)
            logger.warning("%s/%s came with other bytes; reading again", self.place.uri, file.name)
            seen.append(sha256(self.place.fetch([file], folder) / file.name))

    def _damaged(self, file: StoredFile, seen: list[str]) -> TrainerError:
        message = f"{self.place.uri}/{file.name} does not have the SHA-256 of its manifest"
        if len(set(seen)) == 1:
            # Always the same other bytes: that is what is stored.
            return TrainerError(Reason.CORRUPT_MODEL, message)
        return TrainerError(Reason.STORAGE_CORRUPTED, f"{message}, and each time other bytes")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
