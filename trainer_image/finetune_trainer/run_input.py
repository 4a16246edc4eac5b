"""Reading FILE of `finetune-trainer run FILE`: a run file in a pod, a manifest on a laptop.

Called by `__main__` first of all, so it imports nothing heavy. It checks what can be known from the
spec alone: validity, what this version can do, and where `file://` may stand.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from finetune_api import manifest
from finetune_api.run_file import RunFile
from finetune_api.support import unsupported
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError


@dataclass(frozen=True)
class RunInput:
    """What to run.

    Attributes:
        run: The run file; made up from the manifest on a laptop.
        laptop: Whether FILE is a manifest, run without Kubernetes.
        file: FILE, for processes that are started to run it too.
    """

    run: RunFile
    laptop: bool
    file: Path = Path()


def load(path: Path) -> RunInput:
    """Read and check FILE.

    Raises:
        TrainerError: InvalidSpec or NotImplemented, with every finding.
    """
    run_file = _run_file(path)
    if run_file:
        given = RunInput(run=run_file, laptop=False, file=path)
    else:
        given = RunInput(run=_of_manifest(path), laptop=True, file=path)
    _refuse_unsupported(given.run.spec)
    if not given.laptop:
        _refuse_local_files(given.run.spec)
    return given


def _run_file(path: Path) -> RunFile | None:
    try:
        text = path.read_text("utf-8")
        document = json.loads(text)
    except (OSError, ValueError):
        # Absent, or YAML: the manifest reader says what is wrong.
        return None
    if not isinstance(document, dict) or document.get("kind") != "RunFile":
        return None
    try:
        return RunFile.model_validate_json(text)
    except ValidationError as error:
        message = f"{path}: not a run file of this version: {manifest.explain(error)}"
        hint = "The operator and the trainer image must be of the same release."
        raise TrainerError(Reason.INVALID_SPEC, message, hint) from None


def _of_manifest(path: Path) -> RunFile:
    try:
        return RunFile.of_manifest(manifest.load(path), uid=str(uuid4()))
    except manifest.ManifestError as error:
        hint = "`kubectl explain finetunejob.spec` and docs/reference list every field."
        raise TrainerError(Reason.INVALID_SPEC, str(error), hint) from None


def _refuse_unsupported(spec: FineTuneJobSpec) -> None:
    found = unsupported(spec)
    if found:
        raise TrainerError(Reason.NOT_IMPLEMENTED, "; ".join(map(str, found)))


def _refuse_local_files(spec: FineTuneJobSpec) -> None:
    uris = [*spec.input_uris(), ("output.uri", spec.output.uri)]
    local = [f"spec.{path}" for path, uri in uris if uri.startswith("file://")]
    if local:
        message = f"{', '.join(local)}: file:// means this machine, and in a pod there is no such"
        hint = "Use s3:// or pvc://; file:// is for `finetune-trainer run` on a laptop."
        raise TrainerError(Reason.INVALID_SPEC, message, hint)
