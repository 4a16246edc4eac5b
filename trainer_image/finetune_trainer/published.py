"""An output of ours, opened as something to read from: manifest first, then the files that it lists.

Used by `sources` for models that are outputs of other jobs, and by the commands. Nothing is believed
but the manifest: what it does not list is not there, and what it lists must have that digest.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import ValidationError

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.output_manifest import MANIFEST, OutputManifest, attempt_prefix
from finetune_trainer.selection import Selection
from finetune_trainer.storage import Source, Storage, StoredFile
from finetune_trainer.storage.again import TRIES

_ATTEMPTS = "/attempts/"


@dataclass(frozen=True)
class Published:
    """An output with its manifest.

    Attributes:
        root: The place of `output.uri`, where the manifest lies.
        manifest: Its content.
        digest: `sha256:` and the SHA-256 of the manifest.
        files: The files of the output, as listed by the manifest and present in storage.
    """

    root: Source
    manifest: OutputManifest
    digest: str
    files: Selection

    def has(self, name: str) -> bool:
        """Whether the output holds a file of this name."""
        return any(file.name == name for file in self.files.files)

    def folder(self, name: str) -> Selection:
        """The files of one folder of the output, named from there."""
        prefix = f"{name}/"
        inside = tuple(
            StoredFile(file.name.removeprefix(prefix), file.size, file.location)
            for file in self.files.files
            if file.name.startswith(prefix)
        )
        digests = {
            path.removeprefix(prefix): digest
            for path, digest in self.files.digests.items()
            if path.startswith(prefix)
        }
        return Selection(self.files.place.below(name), inside, digests)

    def read(self, name: str) -> bytes | None:
        """A small file of the output, or None if it holds none of this name.

        Raises:
            TrainerError: CorruptModel if it does not have the digest of the manifest.
        """
        expected = self.files.digests.get(name)
        for _ in range(TRIES if expected else 0):
            content = self.files.place.read(name)
            if content is None or hashlib.sha256(content).hexdigest() == expected:
                return content
        if expected is None:
            return None
        message = f"{self.files.place.uri}/{name} does not have the SHA-256 of its manifest"
        raise TrainerError(Reason.CORRUPT_MODEL, message)


def find(storage: Storage, place: Source, listing: Sequence[StoredFile]) -> Published | None:
    """The output at a place, or None if what lies there is something else.

    A place is an output if its root holds a manifest of ours, or if it is the folder of the attempt
    that such a manifest names (`status.output.uri`).

    Args:
        storage: Opens the root above the folder of an attempt.
        place: What the URI names.
        listing: Its files.

    Raises:
        TrainerError: CorruptModel if the manifest or a file that it lists is damaged or missing.
    """
    if any(file.name == MANIFEST for file in listing):
        return _open(place, listing)
    root, separator, _ = place.uri.rpartition(_ATTEMPTS)
    if not separator:
        return None
    above = storage.place(root, Reason.MODEL_NOT_FOUND)
    if above.read(MANIFEST) is None:
        return None
    found = _open(above, above.files())
    return found if found and found.files.place.uri == place.uri else None


def _open(root: Source, listing: Sequence[StoredFile]) -> Published | None:
    content = root.read(MANIFEST) or b""
    manifest = _manifest(root, content)
    if manifest is None:
        return None
    # The tail, and not the manifest's own `prefix`: an output may be copied elsewhere as a whole.
    tail = attempt_prefix(manifest.job, manifest.attempt)
    present = {file.name: file for file in listing}
    files = []
    for listed in manifest.files:
        stored = present.get(f"{tail}/{listed.path}")
        if stored is None or stored.size != listed.size_bytes or not _is_plain(listed.path):
            message = f"{root.uri}/{tail}/{listed.path} is missing or not as the manifest says"
            raise TrainerError(Reason.CORRUPT_MODEL, message)
        files.append(StoredFile(listed.path, stored.size, stored.location))
    digests = {listed.path: listed.sha256 for listed in manifest.files}
    selection = Selection(root.below(tail), tuple(files), digests)
    return Published(root, manifest, f"sha256:{hashlib.sha256(content).hexdigest()}", selection)


def _manifest(root: Source, content: bytes) -> OutputManifest | None:
    try:
        document = json.loads(content)
    except ValueError:
        return None
    if not isinstance(document, dict) or document.get("kind") != "OutputManifest":
        # Somebody else's file of the same name.
        return None
    try:
        return OutputManifest.model_validate_json(content)
    except ValidationError:
        message = f"{root.uri}/{MANIFEST} is not a manifest of this version"
        hint = "Read it with the version that wrote it."
        raise TrainerError(Reason.CORRUPT_MODEL, message, hint) from None


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
