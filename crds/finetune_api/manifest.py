"""Reading a FineTuneJob manifest from YAML, with errors for people.

For the command line and for runs on a laptop; in a cluster the API server reads manifests. YAML 1.2
rules apply, under which `2e-4` is a number.
"""

from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

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
    """All findings of a validation, one a line, each with its path in the manifest."""
    lines = []
    for finding in error.errors(include_url=False):
        path = ".".join(str(part) for part in finding["loc"]) or "the manifest"
        lines.append(f"{path}: {finding['msg']}")
    return "; ".join(lines)
