"""Specs that are refused before anything is created. Called by `plan.decide`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_api.manifest import explain
from finetune_api.support import unsupported
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason


@dataclass(frozen=True)
class Refusal:
    """Why a spec cannot be carried out."""

    reason: Reason
    message: str
    hint: str = ""


def read_spec(spec: Mapping[str, Any]) -> FineTuneJobSpec | Refusal:
    """The spec, or why it is refused. Every finding is named, not the first one only."""
    try:
        parsed = FineTuneJobSpec.model_validate(spec)
    except ValidationError as error:
        return Refusal(Reason.INVALID_SPEC, explain(error))
    uris = [*parsed.input_uris(), ("output.uri", parsed.output.uri)]
    local = [f"spec.{path}" for path, uri in uris if uri.startswith("file://")]
    if local:
        message = f"{', '.join(local)}: file:// works with `finetune-trainer run` on a laptop only"
        return Refusal(Reason.INVALID_SPEC, message, "Use s3:// or pvc:// in a cluster.")
    found = unsupported(parsed)
    if found:
        return Refusal(Reason.NOT_IMPLEMENTED, "; ".join(map(str, found)))
    return parsed


def digest(spec: FineTuneJobSpec) -> str:
    """SHA-256 of the spec without `suspend`, which may change while attempts go on."""
    content = {name: value for name, value in spec.to_dict().items() if name != "suspend"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
