"""Reading a FineTuneJob manifest from YAML, with errors for people.

For the command line and for runs on a laptop; in a cluster the API server reads manifests. YAML 1.2
rules apply, under which `2e-4` is a number.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from finetune_api.meta import ApiModel
from finetune_api.v1alpha1.job import FineTuneJob


class ManifestError(ValueError):
    """The manifest cannot be used; the message says what is wrong, where, and what to do."""


def load(path: Path) -> FineTuneJob:
    """Read and check one manifest.

    Raises:
        ManifestError: The file is absent, not YAML, or not a valid FineTuneJob.
    """
    try:
        return FineTuneJob.model_validate(YAML(typ="safe", pure=True).load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from None
    except YAMLError as error:
        raise ManifestError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        raise ManifestError(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """All findings of a validation, separated by semicolons, each with its path in the manifest."""
    lines = []
    for finding in error.errors(include_url=False):
        path = ".".join(str(part) for part in finding["loc"]) or "the manifest"
        lines.append(f"{path}: {_sentence(finding)}")
    return "; ".join(lines)


def _sentence(finding: ErrorDetails) -> str:
    if finding["type"] != "extra_forbidden":
        return finding["msg"]
    *parents, name = finding["loc"]
    near = get_close_matches(str(name), _fields(parents), n=1)
    return f"unknown field; did you mean `{near[0]}`?" if near else "unknown field"


def _fields(path: Sequence[int | str]) -> list[str]:
    """Names of the fields that the block at a path of the manifest has."""
    block: type[ApiModel] | None = FineTuneJob
    for part in path:
        if isinstance(part, str) and block is not None:
            found = [f for f in block.model_fields.values() if f.alias == part]
            block = next(_models(found[0].annotation), None) if found else None
    return [str(field.alias) for field in block.model_fields.values()] if block else []


def _models(annotation: object) -> Iterator[type[ApiModel]]:
    """The blocks inside an annotation such as `list[DataSource] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
