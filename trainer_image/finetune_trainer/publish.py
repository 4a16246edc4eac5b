"""Publishing: upload the output folder, read it back, and only then write the manifest.

Called by the recipe with a folder that is complete. Each attempt has a prefix of its own; nothing is
overwritten, and an output exists only once its manifest does.
"""

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from finetune_api.records import Report
from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Evaluation, Plan, Resolved
from finetune_trainer import termination
from finetune_trainer.errors import TrainerError
from finetune_trainer.output_manifest import (
    MANIFEST,
    OutputFile,
    OutputManifest,
    Verification,
    attempt_prefix,
    find_published,
)
from finetune_trainer.selection import sha256
from finetune_trainer.sources import ModelSource
from finetune_trainer.storage import Place

LIBRARIES = ("torch", "transformers", "peft", "trl")


def attempt_place(output: Place, run: RunFile) -> Place:
    """The prefix of this attempt's files."""
    return output.below(attempt_prefix(run.job, run.attempt))


def upload(folder: Path, place: Place) -> list[OutputFile]:
    """Store every file of the folder; returns them with their SHA-256."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        place.put(path, name)
        size = path.stat().st_size
        files.append(OutputFile(path=name, size_bytes=size, sha256=sha256(path)))
    return files


def fetch_back(place: Place, folder: Path) -> Path:
    """Read the published files into a fresh folder; returns where they are."""
    return place.fetch(place.files(), folder)


def write_manifest(output: Place, run: RunFile, manifest: OutputManifest) -> Report:
    """Make the output exist; returns the report of the run.

    Raises:
        TrainerError: OutputConflict if somebody else's output exists by now.
    """
    content = manifest.to_bytes()
    # From here on, a stop would leave a published output behind that nobody heard of.
    termination.ignore()
    if output.put_new(MANIFEST, content):
        return manifest.report(output, content)
    # A retry inside the client may meet the object that its own first try has written.
    stored = output.read(MANIFEST)
    if stored == content:
        return manifest.report(output, content)
    # Raises if the other writer is another job.
    find_published(output, run.job)
    message = f"{output.uri}/{MANIFEST} was written by another attempt of this job meanwhile"
    raise TrainerError(Reason.OUTPUT_CONFLICT, message)


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
