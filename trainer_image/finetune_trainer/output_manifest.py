"""The manifest of an output: what was published, from what, and how it was verified.

`publish` writes it last, so an output exists once its manifest does. `run` reads it first, to find out
that another job was here, or that this job had finished already; `published` reads those of others.
"""

import hashlib
import json
from typing import Literal

from pydantic import ValidationError

from finetune_api.meta import API_VERSION, ApiModel
from finetune_api.records import Report
from finetune_api.run_file import JobIdentity
from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Evaluation, OutputStatus, Plan, Resolved
from finetune_api.v1alpha1.tuning import Quantization
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Place

MANIFEST = "manifest.json"


def attempt_prefix(job: JobIdentity, attempt: int) -> str:
    """Folder of an attempt's files, below `output.uri`."""
    return f"attempts/{job.uid[:8]}-{attempt}"


class OutputFile(ApiModel):
    """One published file."""

    path: str
    """Path below the prefix."""

    size_bytes: int
    sha256: str


class MergedVerification(ApiModel):
    """The same for the merged weights."""

    relative_difference: float
    """Difference to the logits of the adapter on its base, neither quantised, as a share of their size
    (root mean square)."""

    tolerance: float
    """Largest share that would have been accepted: rounding to the dtype of the base."""

    adapter_relative_difference: float
    """The same share for what the adapter changes; what rounding lost is to be held against it."""


class Verification(ApiModel):
    """What came out when the output was opened again from storage."""

    max_logit_difference: float
    """Largest difference to the logits of the trained model, on one batch of real rows."""

    tolerance: float
    """Largest difference that would have been accepted."""

    merged: MergedVerification | None = None
    """The same for the merged weights, if they were published."""


class OutputManifest(ApiModel):
    """`manifest.json`."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["OutputManifest"] = "OutputManifest"
    job: JobIdentity
    attempt: int
    created: str
    prefix: str
    """URI of the folder that holds the files."""

    base_model: str
    """URI of the model that was tuned: the root of its output if it is one, with its commit if it is
    from the hub."""

    base_manifest_digest: str | None = None
    """Digest of the base model's manifest, if it is an output."""

    task: Task = "text-generation"
    """What the model does."""

    method: MethodType = "SFT"
    """How it was trained; a Reward model scores texts, whatever its task."""

    labels: list[str] | None = None
    """Names of the classes, by number, if the model has any."""

    quantization: Quantization | None = None
    """How the base was held in training and when the output was verified, if it was quantised."""

    files: list[OutputFile]
    resolved: list[Resolved]
    plan: Plan
    evaluation: Evaluation | None = None
    verification: Verification
    versions: dict[str, str]
    """Versions of the libraries that trained."""

    def to_bytes(self) -> bytes:
        """The file's content; the same manifest always gives the same bytes."""
        return (json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n").encode()

    def report(self, output: Place, content: bytes) -> Report:
        """The report of a run whose output this is.

        Args:
            output: The place of `spec.output.uri`.
            content: The manifest's bytes as they are stored.
        """
        status = OutputStatus(
            uri=self.prefix,
            manifest=f"{output.uri}/{MANIFEST}",
            manifest_digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
            size_bytes=sum(file.size_bytes for file in self.files),
        )
        difference = self.verification.max_logit_difference
        return Report(
            outcome="Complete",
            reason=Reason.OUTPUT_PUBLISHED,
            message=f"{len(self.files)} files published and read back; "
            f"the logits differ by at most {difference:.2g}",
            output=status,
            evaluation=self.evaluation,
            plan=self.plan,
            resolved=self.resolved,
        )


def find_published(output: Place, job: JobIdentity) -> Report | None:
    """The report of an earlier run of this very job that got as far as publishing, or None.

    Raises:
        TrainerError: OutputConflict if the output belongs to another job.
    """
    content = output.read(MANIFEST)
    if content is None:
        return None
    uri = f"{output.uri}/{MANIFEST}"
    try:
        manifest = OutputManifest.model_validate_json(content)
    except ValidationError:
        message = f"{uri} exists and is not a manifest of this version"
        raise TrainerError(Reason.OUTPUT_CONFLICT, message) from None
    if manifest.job.uid != job.uid:
        other = f"{manifest.job.namespace}/{manifest.job.name} (uid {manifest.job.uid})"
        message = f"{uri} exists: this output was published by job {other} on {manifest.created}"
        raise TrainerError(Reason.OUTPUT_CONFLICT, message)
    return manifest.report(output, content)
