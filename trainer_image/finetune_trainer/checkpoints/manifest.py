"""The manifest of a checkpoint: what its folder holds, written last.

`store` writes and reads it. Everything that is not named by a manifest counts as rubbish.
"""

import json
import re
from pathlib import PurePosixPath
from typing import Literal

from pydantic import ValidationError, field_validator

from finetune_api.meta import API_VERSION, ApiModel
from finetune_api.run_file import JobIdentity
from finetune_trainer.checkpoints.identity import Identity
from finetune_trainer.output_manifest import OutputFile

MANIFEST = "manifest.json"
_FOLDER = re.compile(r"^(\d+)-(\d+)(-[0-9a-f]+)?$")


def checkpoints_prefix(job: JobIdentity) -> str:
    """Folder of a job's checkpoints, below `output.uri`."""
    return f"checkpoints/{job.uid[:8]}"


def order_of(folder: str) -> tuple[int, int] | None:
    """Step and attempt by the name of a folder, None if it is not a checkpoint's.

    >>> order_of("2-140")
    (140, 2)
    """
    match = _FOLDER.match(folder)
    return (int(match[2]), int(match[1])) if match else None


class CheckpointManifest(ApiModel):
    """`manifest.json` of a checkpoint."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["CheckpointManifest"] = "CheckpointManifest"
    job: JobIdentity
    attempt: int
    step: int
    created: str
    identity: Identity
    files: list[OutputFile]

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: list[OutputFile]) -> list[OutputFile]:
        for file in files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{file.path} leads out of the folder")
        return files

    @property
    def size_bytes(self) -> int:
        """Sum of the file sizes."""
        return sum(file.size_bytes for file in self.files)

    def to_bytes(self) -> bytes:
        """The file's content; the same manifest always gives the same bytes."""
        return (json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes, job: JobIdentity) -> "CheckpointManifest | None":
        """The manifest, or None if the bytes are not one of this job."""
        try:
            found = cls.model_validate_json(content)
        except ValidationError:
            return None
        return found if found.job.uid == job.uid else None
