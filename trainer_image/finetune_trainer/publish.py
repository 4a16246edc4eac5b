"""Publishing: upload the output folder, read it back, and only then write the manifest.

Called by the recipe with a folder that is complete. Each attempt has a prefix of its own; nothing is
overwritten, and an output exists only once its manifest does.
"""

import logging
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from finetune_api.records import Report
from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Evaluation, Plan, Resolved
from finetune_trainer import termination, uploads
from finetune_trainer.checkpoints import Fence
from finetune_trainer.errors import TrainerError
from finetune_trainer.output_manifest import (
    MANIFEST,
    OutputFile,
    OutputManifest,
    Verification,
    attempt_prefix,
    find_published,
)
from finetune_trainer.sources import ModelSource
from finetune_trainer.storage import Place
from finetune_trainer.storage.again import patiently

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "peft", "trl")


def attempt_place(output: Place, run: RunFile) -> Place:
    """The prefix of this attempt's files."""
    return output.below(attempt_prefix(run.job, run.attempt))


def upload(folder: Path, place: Place) -> list[OutputFile]:
    """Store every file of the folder; returns them with their SHA-256.

    A store that is away is waited for: all that the run has learned is in this folder.

    Raises:
        TrainerError: Anything about storage that did not pass in time.
    """
    return uploads.upload(folder, place, patient=True)


def fetch_back(place: Place, folder: Path) -> Path:
    """Read the published files into a fresh folder; returns where they are."""
    return patiently(lambda: place.fetch(place.files(), folder))


def write_manifest(
    output: Place, run: RunFile, manifest: OutputManifest, fence: Fence | None = None
) -> Report:
    """Make the output exist; returns the report of the run.

    Args:
        output: The place of `spec.output.uri`.
        run: The run.
        manifest: Of the files that were uploaded and read back.
        fence: What this process has taken at its start; without it, any attempt's fence is looked at.

    Raises:
        TrainerError: Fenced if another attempt of this job has become the writer or has published,
            OutputConflict if another job's output exists by now.
    """
    content = manifest.to_bytes()
    patiently(fence.require if fence else Fence(output, run).refuse_if_newer)
    # From here on, a stop would leave a published output behind that nobody heard of.
    termination.ignore()
    # A retry inside the client may meet the object that its own first try has written.
    if patiently(lambda: output.put_new(MANIFEST, content) or output.read(MANIFEST) == content):
        _remove_earlier_attempts(output, run)
        return manifest.report(output, content)
    # Raises if the other writer is another job.
    find_published(output, run.job)
    message = f"{output.uri}/{MANIFEST} was written by another attempt of this job meanwhile"
    raise TrainerError(Reason.FENCED, message)


def _remove_earlier_attempts(output: Place, run: RunFile) -> None:
    # Nobody can publish their files any more, now that there is a manifest.
    try:
        for attempt in range(1, run.attempt):
            place = output.below(attempt_prefix(run.job, attempt))
            place.discard_unfinished()
            place.delete_all([file.name for file in place.listing()])
    except TrainerError as error:
        logger.warning("files of earlier attempts were not removed: %s", error.message)


def make_manifest(
    run: RunFile,
    base: ModelSource,
    place: Place,
    files: list[OutputFile],
    facts: tuple[list[Resolved], Plan, Evaluation | None],
    verification: Verification,
    labels: list[str] | None = None,
) -> OutputManifest:
    """The manifest of what was published.

    Args:
        run: The run.
        base: The model that was tuned.
        place: Where the files lie.
        files: From `upload`.
        facts: What was resolved, the plan, the evaluation.
        verification: From `verify.compare`.
        labels: Names of the classes, if the model has any.
    """
    resolved, plan, evaluation = facts
    return OutputManifest(
        job=run.job,
        attempt=run.attempt,
        created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        prefix=place.uri,
        base_model=base.identity,
        base_manifest_digest=base.digest,
        task=run.spec.model.task,
        method=run.spec.method.type,
        labels=labels,
        quantization=run.spec.tuning.quantization,
        files=files,
        resolved=resolved,
        plan=plan,
        evaluation=evaluation,
        verification=verification,
        versions={name: version(name) for name in LIBRARIES},
    )
