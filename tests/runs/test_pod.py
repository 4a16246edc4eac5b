"""As in a pod: a run file, credentials as files, everything in a real S3, and the command itself."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from devcluster.s3 import Keys, S3Server
from finetune_api.records import Report, parse_report
from finetune_api.v1alpha1.reasons import Reason
from support.jobs import spec
from support.tiny_models import chats, write_jsonl

BUCKET = "trainer"
COMMAND = [str(Path(sys.executable).parent / "finetune-trainer"), "run"]
# Long enough to be stopped in the middle.
ENDLESS = {"training.maxSteps": 100_000}


@dataclass
class Pod:
    """One attempt: its run file, its environment, and what it left."""

    folder: Path
    server: S3Server
    prefix: str
    keys: Keys
    changes: dict[str, Any] = field(default_factory=dict)
    uid: str = "11111111-2222"
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "FINETUNE_STORAGE_CREDENTIALS": str(self.folder / "credentials"),
            "FINETUNE_SCRATCH": str(self.folder / "scratch"),
            "FINETUNE_TERMINATION_LOG": str(self.folder / "termination-log"),
        }

    def run_file(self) -> Path:
        root = f"s3://{BUCKET}/{self.prefix}"
        changes = {
            "model.source": f"{root}/model",
            "data.train": [{"source": f"{root}/data/train.jsonl"}],
            "output.uri": f"{root}/out",
            "storage": {"endpoint": self.server.endpoint, "credentials": {"secretName": "s3"}},
            **self.changes,
        }
        secret = self.folder / "credentials"
        secret.mkdir(exist_ok=True)
        (secret / "AWS_ACCESS_KEY_ID").write_text(self.keys.access)
        (secret / "AWS_SECRET_ACCESS_KEY").write_text(self.keys.secret + "\n")
        job = {"namespace": "team", "name": "demo", "uid": self.uid}
        path = self.folder / "run.json"
        content = {"kind": "RunFile", "job": job, "spec": spec(changes), "attempt": 2}
        path.write_text(json.dumps({**content, "progressIntervalSeconds": 0.01}))
        return path

    def start(self) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [*COMMAND, str(self.run_file())]
        variables = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.folder),
            **self.environment,
            **self.variables,
        }
        return subprocess.Popen(command, env=variables, **pipes)

    def report(self) -> Report:
        found = parse_report((self.folder / "termination-log").read_text())
        assert found is not None
        return found

    def keys_of(self, below: str) -> list[str]:
        answer = self.server.client().list_objects_v2(
            Bucket=BUCKET, Prefix=f"{self.prefix}/{below}"
        )
        return [entry["Key"] for entry in answer.get("Contents", ())]


@pytest.fixture
def pod(s3: S3Server, model_folder: Path, tmp_path: Path, request: Any) -> Pod:
    prefix = request.node.name.partition("[")[0]
    train = write_jsonl(tmp_path / "train.jsonl", chats(64))
    client = s3.client()
    client.upload_file(str(train), BUCKET, f"{prefix}/data/train.jsonl")
    for path in model_folder.iterdir():
        client.upload_file(str(path), BUCKET, f"{prefix}/model/{path.name}")
    return Pod(tmp_path, s3, prefix, s3.tenant)


def test_from_s3_to_s3_and_only_once(
    pod: Pod, run_here: Callable[..., Any], s3: S3Server, tmp_path: Path
) -> None:
    pod.changes = {"training.maxSteps": 3, "data.evaluation": {"fraction": 0.1}}
    report = run_here(pod.run_file(), tmp_path, **pod.environment).report
    assert report.outcome == "Complete", report.message
    assert report.output.uri == f"s3://{BUCKET}/{pod.prefix}/out/attempts/11111111-2"
    below = report.output.uri.removeprefix(f"s3://{BUCKET}/{pod.prefix}/")
    assert f"{pod.prefix}/{below}/adapter_model.safetensors" in pod.keys_of(below)
    manifest = f"{pod.prefix}/out/manifest.json"
    assert set(pod.keys_of("out")) == {*pod.keys_of("out/attempts"), manifest}, "no probe is left"

    # The same job again finds its work done; another job may not touch it.
    again = run_here(pod.run_file(), tmp_path, **pod.environment)
    assert again.report.output == report.output
    assert again.report.evaluation == report.evaluation
    assert again.phases == ["PreparingData"]
    pod.uid = "99999999"
    other = run_here(pod.run_file(), tmp_path, **pod.environment).report
    assert other.reason is Reason.OUTPUT_CONFLICT
    assert "11111111-2222" in other.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"output.uri": "s3://elsewhere/out"}, Reason.STORAGE_ACCESS_DENIED),
        ({"model.source": f"s3://{BUCKET}/no-model"}, Reason.MODEL_NOT_FOUND),
        ({"data.train": [{"source": f"s3://{BUCKET}/no.jsonl"}]}, Reason.DATA_NOT_FOUND),
    ],
)
def test_storage_refusals_name_what_was_sought(
    pod: Pod,
    changes: dict[str, Any],
    reason: Reason,
    run_here: Callable[..., Any],
    tmp_path: Path,
) -> None:
    pod.changes = changes
    report = run_here(pod.run_file(), tmp_path, **pod.environment).report
    assert report.reason is reason, report.message
    assert "s3://" in report.message


def test_missing_object_is_told_without_waiting_for_torch(pod: Pod) -> None:
    pod.changes = {"data.train": [{"source": f"s3://{BUCKET}/no.jsonl"}]}
    pod.variables = {"PYTHONPROFILEIMPORTTIME": "1"}
    process = pod.start()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 65
    assert pod.report().reason is Reason.DATA_NOT_FOUND
    lines = said.splitlines(keepends=True)
    imported = {
        line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")
    }
    assert "finetune_trainer.run" in imported
    assert not imported & {"torch", "transformers", "datasets"}
    errors = "".join(line for line in lines if not line.startswith("import time:"))
    assert errors.startswith("Failed (DataNotFound): ")
    assert "Traceback" not in errors


@pytest.mark.parametrize("moment", ["imports", "training"])
def test_sigterm_ends_the_run_with_a_report(pod: Pod, moment: str) -> None:
    pod.changes = ENDLESS
    process = pod.start()
    assert process.stdout is not None
    phase = {"imports": '"phase":"LoadingModel"', "training": '"step":5'}[moment]
    for line in process.stdout:
        if phase in line:
            break
    process.send_signal(signal.SIGTERM)
    # Kubernetes' own grace period.
    process.communicate(timeout=30)
    assert process.returncode == 143
    report = pod.report()
    assert (report.reason, report.outcome) == (Reason.PREEMPTED, "Failed")
    assert report.progress is not None
    keys = pod.keys_of("out")
    if moment == "imports":
        assert keys == []
        return
    # No output, but a whole checkpoint to go on from.
    assert all("/out/checkpoints/" in key for key in keys)
    assert report.checkpoint is not None
    assert report.checkpoint.step >= 5
    saved = report.checkpoint.uri.removeprefix(f"s3://{BUCKET}/")
    assert f"{saved}/manifest.json" in keys


def test_secrets_are_never_shown(pod: Pod) -> None:
    pod.keys = Keys(pod.keys.access, "canary-in-the-coal-mine")
    process = pod.start()
    output, errors = process.communicate(timeout=60)
    report = pod.report()
    assert report.reason is Reason.STORAGE_CREDENTIALS_INVALID
    said = output + errors + report.to_message()
    assert "canary" not in said
    # Nor the key's name, by which a store's owner finds whose it is.
    assert pod.keys.access not in said
