"""Reading manifests: YAML 1.2 numbers, and one clear sentence for each kind of bad file."""

import re
from pathlib import Path

import pytest

from finetune_api.manifest import ManifestError, load

JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: demo}
spec:
  model: {source: "s3://models/base"}
  data: {train: [{source: "s3://data/train.jsonl"}]}
  training: {learningRate: 2e-4}
  output: {uri: "s3://models/tuned"}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_a_bare_exponent_is_a_number(tmp_path: Path) -> None:
    assert load(write(tmp_path, JOB)).spec.training.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("a: 1\na: 2", "not valid YAML"),
        ("", "should be a valid dictionary"),
        (
            JOB.replace("learningRate", "learningrate"),
            "learningrate: unknown field; did you mean `learningRate`?",
        ),
        (
            JOB.replace('source: "s3://data', 'sauce: "s3://data'),
            "spec.data.train.0.sauce: unknown field; did you mean `source`?",
        ),
        (JOB.replace("spec:", "zzz: 1\nspec:"), "zzz: unknown field"),
        (JOB.replace("kind: FineTuneJob", "kind: Pod"), "kind: Input should be 'FineTuneJob'"),
        (JOB.replace("s3://models/base", "ftp://models/base"), "spec.model.source"),
    ],
)
def test_a_bad_manifest_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        load(write(tmp_path, text))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"absent\.yaml: cannot be read"):
        load(tmp_path / "absent.yaml")
