"""The fence: at most one attempt of a job writes, and the newer one wins.

`latest.json` names the attempt that may write. A new attempt takes it over by conditional write; one
that lost it (a zombie on a node that was thought dead) finds out at its next write and stops. Used by
`store` around checkpoints and by `publish` before the output. It is no lock: nobody waits for it.
"""

import logging
from typing import Literal
from uuid import uuid4

from pydantic import ValidationError

from finetune_api.meta import API_VERSION, ApiModel
from finetune_api.run_file import JobIdentity, RunFile
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.checkpoints.manifest import checkpoints_prefix
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Place, Versioned

logger = logging.getLogger(__name__)

LATEST = "latest.json"
_TRIES = 20
# The digest of no file.
_NO_VERSION = '"00000000000000000000000000000000"'


class Latest(ApiModel):
    """`latest.json`."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["LatestCheckpoint"] = "LatestCheckpoint"
    job: JobIdentity
    attempt: int
    """The attempt that may write."""

    holder: str
    """One process of that attempt, by a random word."""

    step: int | None = None
    """Step of the newest checkpoint that was published."""

    folder: str | None = None
    """Its folder, beside this file. Only a hint: readers trust manifests."""

    def to_bytes(self) -> bytes:
        """The file's content."""
        return (self.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n").encode()


class Fence:
    """The right of one process to write for one job.

    Args:
        output: The place of `spec.output.uri`.
        run: The run whose attempt wants to write.
    """

    def __init__(self, output: Place, run: RunFile) -> None:
        self._place = output.below(checkpoints_prefix(run.job))
        self._mine = Latest(job=run.job, attempt=run.attempt, holder=uuid4().hex)

    @property
    def holder(self) -> str:
        """The random word of this process."""
        return self._mine.holder

    def take(self) -> None:
        """Become the writer, unless a newer attempt is.

        Raises:
            TrainerError: Fenced if a newer attempt holds the fence.
        """
        for _ in range(_TRIES):
            found = self._place.read_versioned(LATEST)
            before = self._parse(found)
            self._refuse_older(before)
            mine = self._mine.model_copy(
                update={"step": before and before.step, "folder": before and before.folder}
            )
            if self._write(found, mine):
                self._see_that_it_holds(mine)
                return
        raise self._fenced("others kept taking it over at the same moment")

    def require(self) -> Versioned:
        """The fence as it is now, still held by this process.

        Raises:
            TrainerError: Fenced if it is not.
        """
        found = self._place.read_versioned(LATEST)
        now = self._parse(found)
        if found is None or now is None:
            raise self._fenced(f"{LATEST} is gone")
        if now.holder != self._mine.holder:
            raise self._fenced(f"attempt {now.attempt} holds it now")
        return found

    def move(self, step: int, folder: str) -> None:
        """Point to a newer checkpoint.

        Raises:
            TrainerError: Fenced if another process has become the writer.
        """
        held = self.require()
        mine = self._mine.model_copy(update={"step": step, "folder": folder})
        if not self._write(held, mine):
            self.require()
            raise self._fenced("another process wrote it at the same moment")

    def refuse_if_newer(self) -> None:
        """For those who never took the fence: see that no newer attempt has.

        Raises:
            TrainerError: Fenced if one has.
        """
        self._refuse_older(self._parse(self._place.read_versioned(LATEST)))

    def _write(self, found: Versioned | None, mine: Latest) -> bool:
        content = mine.to_bytes()
        if found is None:
            written = self._place.put_new(LATEST, content)
        else:
            written = self._place.replace(LATEST, content, found.version)
        # A retry inside the client is refused because of what its own first try has written.
        return written or self._place.read(LATEST) == content

    def _see_that_it_holds(self, mine: Latest) -> None:
        # Both must be refused; where they are not, what is written is what is there already.
        content = mine.to_bytes()
        new = self._place.put_new(LATEST, content)
        if new or self._place.replace(LATEST, content, _NO_VERSION):
            logger.warning(
                "%s: the store ignores conditions on writes (If-Match, If-None-Match), so nothing "
                "keeps two trainers from publishing to one output",
                self._place.uri,
            )

    def _parse(self, found: Versioned | None) -> Latest | None:
        if found is None:
            return None
        try:
            latest = Latest.model_validate_json(found.content)
        except ValidationError:
            logger.warning("%s/%s is not readable and is written anew", self._place.uri, LATEST)
            return None
        if latest.job.uid != self._mine.job.uid:
            other = f"{latest.job.namespace}/{latest.job.name} (uid {latest.job.uid})"
            message = f"{self._place.uri} holds checkpoints of job {other}"
            raise TrainerError(Reason.OUTPUT_CONFLICT, message)
        return latest

    def _refuse_older(self, found: Latest | None) -> None:
        if found and found.attempt > self._mine.attempt:
            raise self._fenced(f"attempt {found.attempt} holds it")

    def _fenced(self, why: str) -> TrainerError:
        message = f"attempt {self._mine.attempt} may not write to {self._place.uri}: {why}"
        return TrainerError(Reason.FENCED, message)
