"""The notes after an install: the job in them is one that the API takes."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from finetune_api.v1alpha1.job import FineTuneJob
from support.chart import CHART, helm

FULL = CHART / "ci/full-values.yaml"


def notes(*args: Any) -> str:
    return helm("install", "demo", CHART, "--dry-run=client", *args)


def job_of_notes(printed: str) -> dict[str, Any]:
    """The job that the notes tell users to copy: the indented lines from apiVersion on."""
    lines = printed.partition("NOTES:")[2].splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("apiVersion:"))
    end = next(i for i in range(start, len(lines)) if not lines[i].strip())
    job: dict[str, Any] = YAML(typ="safe", pure=True).load("\n".join(lines[start:end]))
    return job


@pytest.mark.parametrize("file", [None, FULL], ids=["defaults", "full"])
def test_notes_hold_a_valid_job(file: Any) -> None:
    printed = notes(*(("-f", file) if file else ()))
    job = FineTuneJob.model_validate(job_of_notes(printed))
    assert job.spec.storage is not None
    assert job.spec.storage.endpoint == ("https://s3.example.com:8333" if file else None)
    assert ("No image registry is set" in printed) == (file is None)
