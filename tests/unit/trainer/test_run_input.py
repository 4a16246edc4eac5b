import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import run_input
from finetune_trainer.errors import TrainerError
from support.jobs import manifest, spec

JOB = {"namespace": "team", "name": "demo", "uid": "0123456789"}
LOCAL = {"model.source": "file:///m", "output.uri": "file:///o"}


def yaml(folder: Path, changes: dict[str, Any]) -> Path:
    path = folder / "job.yaml"
    YAML().dump(manifest("demo", changes), path)
    return path


def run_file(folder: Path, changes: dict[str, Any], **fields: object) -> Path:
    path = folder / "run.json"
    path.write_text(json.dumps({"kind": "RunFile", "job": JOB, "spec": spec(changes), **fields}))
    return path


def refusal(path: Path) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        run_input.load(path)
    return caught.value


def test_manifest_on_a_laptop(tmp_path: Path) -> None:
    path = yaml(tmp_path, {**LOCAL, "training.learningRate": 2e-4})
    first, second = run_input.load(path), run_input.load(path)
    assert first.laptop
    assert (first.run.job.name, first.run.attempt) == ("demo", 1)
    assert first.run.job.uid != second.run.job.uid


def test_run_file_in_a_pod(tmp_path: Path) -> None:
    given = run_input.load(run_file(tmp_path, {}, attempt=2))
    assert not given.laptop
    assert (given.run.job.uid, given.run.attempt) == ("0123456789", 2)


def test_local_files_in_a_pod_are_refused_by_name(tmp_path: Path) -> None:
    error = refusal(run_file(tmp_path, LOCAL))
    assert error.reason is Reason.INVALID_SPEC
    assert "spec.model.source, spec.output.uri" in error.message


def test_every_unsupported_field_is_listed(tmp_path: Path) -> None:
    changes = {**LOCAL, "training.extra": {"a": "b"}, "training.precision": "Float16"}
    error = refusal(yaml(tmp_path, changes))
    assert error.reason is Reason.NOT_IMPLEMENTED
    assert "spec.training.extra" in error.message
    assert "spec.training.precision" in error.message


def test_misspelt_field(tmp_path: Path) -> None:
    error = refusal(yaml(tmp_path, {"training.learningrate": 1e-4}))
    assert error.reason is Reason.INVALID_SPEC
    assert "spec.training.learningrate" in error.message


def test_run_file_of_another_version(tmp_path: Path) -> None:
    error = refusal(run_file(tmp_path, {}, novelty=1))
    assert error.reason is Reason.INVALID_SPEC
    assert "novelty" in error.message
    assert "same release" in (error.hint or "")


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), ("a: [", "not valid YAML")]
)
def test_unreadable(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_text(content)
    error = refusal(path)
    assert error.reason is Reason.INVALID_SPEC
    assert words in error.message
