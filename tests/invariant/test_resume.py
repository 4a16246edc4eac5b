"""A run that was killed with SIGKILL and went on from its checkpoint is the run that never was killed.

Each case is three real processes, forked once the libraries are imported: one undisturbed, one that is
killed in the middle, and the attempt after it. Adapter, losses, evaluations and answers must be the
same to the bit.
"""

import io
import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import AutoTokenizer

from finetune_api.records import ProgressRecord, Report, parse_record, parse_report
from finetune_api.run_file import JobIdentity, RunFile
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import recipes, run
from finetune_trainer.__main__ import run_file
from finetune_trainer.environment import Environment
from finetune_trainer.progress import Reporter
from finetune_trainer.run_input import RunInput
from support.jobs import manifest, spec
from support.preference_data import preferences
from support.taste import taste_model
from support.tiny_models import pairs, tiny_model, write_jsonl

UID = "11112222-0000-4000-8000-000000000000"
Act = Callable[[ProgressRecord], None]


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job, in a process of its own.

    Attributes:
        folder: Everything of this job.
        changes: Of the spec.
        number: Of the attempt.
        divisor: Of the micro-batch.
        grace: Seconds from SIGTERM to SIGKILL.
    """

    folder: Path
    changes: dict[str, Any]
    number: int = 1
    divisor: int = 1
    grace: int = 30

    def run(self, act: Act | None = None) -> tuple[int, Report | None, list[ProgressRecord]]:
        """Exit status (negative for a signal), report, records; `act` sees each record first."""
        pid = os.fork()
        if not pid:
            self._in_child(act)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        lines = (self.folder / "stdout").read_text().splitlines()
        records = [r for r in map(parse_record, lines) if isinstance(r, ProgressRecord)]
        log = self.folder / "termination-log"
        return status, parse_report(log.read_text()) if log.exists() else None, records

    def _in_child(self, act: Act | None) -> None:
        try:
            (self.folder / "termination-log").unlink(missing_ok=True)
            file = self.folder / "job.yaml"
            YAML().dump(manifest("demo", self.changes), file)
            environment = {
                "FINETUNE_SCRATCH": str(self.folder / f"scratch-{self.number}"),
                "FINETUNE_TERMINATION_LOG": str(self.folder / "termination-log"),
            }
            with (self.folder / "stdout").open("w") as stream:
                report = run_file(file, environment, Watched(stream, act), self._as_in_a_pod)
            os._exit(report.exit_code)
        except BaseException:  # noqa: BLE001 - a child must not go on with its parent's tests
            traceback.print_exc()
            os._exit(99)

    def _as_in_a_pod(self, _: RunInput, environment: Environment, reporter: Reporter) -> Report:
        job = JobIdentity(namespace="default", name="demo", uid=UID)
        run_of = RunFile(
            job=job,
            attempt=self.number,
            spec=FineTuneJobSpec.model_validate(spec(self.changes)),
            micro_batch_divisor=self.divisor,
            grace_seconds=self.grace,
        )
        reporter._interval = 0.0  # a record a step
        return run.execute(RunInput(run=run_of, laptop=False), environment, reporter)

    def published(self) -> Path:
        content = json.loads((self.folder / "out" / "manifest.json").read_text())
        return Path(content["prefix"].removeprefix("file://"))

    def weights(self) -> dict[str, bytes]:
        found = self.published().glob("*.safetensors")
        return {path.name: path.read_bytes() for path in found}

    def log(self) -> list[dict[str, float]]:
        lines = (self.published() / "training_log.jsonl").read_text().splitlines()
        timed = ("tokensPerSecond",)
        return [
            {name: value for name, value in json.loads(line).items() if name not in timed}
            for line in lines
        ]

    def text(self, name: str) -> str | None:
        path = self.published() / name
        return path.read_text() if path.exists() else None


class Watched(io.TextIOBase):
    """A stream whose records are seen by `act` once they are written."""

    def __init__(self, stream: Any, act: Act | None) -> None:
        self._stream, self._act = stream, act

    def write(self, text: str) -> int:
        self._stream.write(text)
        self._stream.flush()
        record = parse_record(text.strip())
        if self._act and isinstance(record, ProgressRecord):
            self._act(record)
        return len(text)


def kill_at(step: int, folder: Path) -> Act:
    """Kills this process at a step, as soon as the checkpoint of the step before is published."""
    manifest = folder / "out" / "checkpoints" / UID[:8] / f"1-{step - 1}" / "manifest.json"

    def act(record: ProgressRecord) -> None:
        if record.progress.step != step:
            return
        until = time.monotonic() + 20
        while not manifest.exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    return act


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "policy", hidden=32, layers=1, positions=128)
    taste_model(folder / "taste", AutoTokenizer.from_pretrained(folder / "policy"))
    write_jsonl(folder / "pairs.jsonl", pairs(34))
    write_jsonl(folder / "prompts.jsonl", pairs(14))
    write_jsonl(folder / "preferences.jsonl", preferences(34))
    for method in ("SFT", "DPO", "PPO", "GRPO"):
        recipes.load(method, "text-generation")
    return folder


def job(models: Path, data: str, steps: int, **changes: Any) -> dict[str, Any]:
    """Two held-out rows, rows of unlike length, batches of 4 in passes of 2, a save every step."""
    return {
        "model.source": f"file://{models}/policy",
        "data.train": [{"source": f"file://{models}/{data}.jsonl"}],
        "data.evaluation": {"fraction": 0.1},
        "training.batchSize": 4,
        "training.microBatchSize": 2,
        "training.maxSteps": steps,
        "training.learningRate": 3e-3,
        "training.logEverySteps": 1,
        "tuning.type": "LoRA",
        "tuning.lora": {"rank": 4, "dropout": 0.1},
        "checkpoints.everySteps": 1,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }


ONLINE: dict[str, Any] = {"generation": {"maxNewTokens": 6}}


def case(name: str, models: Path) -> tuple[dict[str, Any], int]:
    """A job and the step at which it is killed; 31 rows in batches of 4 are 8 steps a pass."""
    taste = f"file://{models}/taste"
    if name == "SFT":
        return job(models, "pairs", 20), 11
    if name == "at the end of a pass":
        return job(models, "pairs", 18), 8
    if name == "packed":
        packed = {"data.packing": "Enabled", "data.maxLength": 128}
        return job(models, "pairs", 10) | packed, 4
    if name == "full, stops early":
        stopping = {"training.earlyStopping": {"patience": 2, "threshold": 0.5}}
        every = {"training.evaluateEverySteps": 2, "tuning.type": "Full"}
        changes = job(models, "pairs", 40) | stopping | every
        del changes["tuning.lora"]
        return changes, 5
    if name == "AdaLoRA":
        changes = job(models, "pairs", 20) | {"tuning.type": "AdaLoRA"}
        del changes["tuning.lora"]
        return changes | {"tuning.adalora": {"initialRank": 6, "targetRank": 2}}, 7
    if name == "PiSSA":
        lora = {"rank": 4, "variant": "PiSSA"}
        return job(models, "pairs", 8) | {"tuning.lora": lora}, 4
    if name == "DPO":
        return job(models, "preferences", 18, method={"type": "DPO"}), 10
    if name == "PPO":
        block = {**ONLINE, "rewardModel": taste, "klTarget": 3.0, "minibatches": 2, "epochs": 2}
        return job(models, "prompts", 7, method={"type": "PPO", "ppo": block}), 5
    block = {**ONLINE, "rewardModel": taste, "answersPerPrompt": 4, "beta": 0.05}
    return job(models, "prompts", 7, method={"type": "GRPO", "grpo": block}), 4


CASES = (
    "SFT", "at the end of a pass", "packed", "full, stops early", "AdaLoRA", "PiSSA", "DPO", "PPO",
    "GRPO",
)  # fmt: skip


def places(tmp_path: Path) -> Iterator[Path]:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        yield tmp_path / name


def to(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    return changes | {"output.uri": f"file://{folder}/out"}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_as_the_undisturbed_one(name: str, models: Path, tmp_path: Path) -> None:
    changes, at = case(name, models)
    whole_folder, folder = places(tmp_path)
    whole = Attempt(whole_folder, to(whole_folder, changes))
    status, report, _ = whole.run()
    assert status == 0, report

    killed = Attempt(folder, to(folder, changes))
    status, report, _ = killed.run(kill_at(at, folder))
    assert (status, report) == (-signal.SIGKILL, None)
    again = replace(killed, number=2)
    status, report, records = again.run()
    assert (status, report and report.reason) == (0, Reason.OUTPUT_PUBLISHED), report

    # It really went on: no step was done again but the one that was lost.
    assert report is not None
    assert report.resumed is not None
    assert report.resumed.step == at - 1
    steps = [each.progress.step for each in records if each.progress.phase == "Training"]
    assert min(step for step in steps if step) == at

    assert again.weights() == whole.weights()
    assert again.log() == whole.log()
    for file in ("evaluation.json", "samples.jsonl"):
        assert again.text(file) == whole.text(file)
    # What is no longer needed is gone.
    assert not list((folder / "out" / "checkpoints").glob("**/*.safetensors"))


def test_sigterm_in_training_saves_the_step_and_exits_143(models: Path, tmp_path: Path) -> None:
    changes = job(models, "pairs", 12, checkpoints={"everySteps": 100})
    whole_folder, folder = places(tmp_path)
    whole = Attempt(whole_folder, to(whole_folder, changes))
    assert whole.run()[0] == 0

    def stop(record: ProgressRecord) -> None:
        if record.progress.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = Attempt(folder, to(folder, changes))
    status, report, _ = stopped.run(stop)
    assert status == 143
    assert report is not None
    assert report.reason is Reason.PREEMPTED
    assert report.checkpoint is not None
    assert report.checkpoint.step == 6
    assert report.checkpoint.uri.endswith(f"checkpoints/{UID[:8]}/1-6")

    again = replace(stopped, number=2)
    status, report, _ = again.run()
    assert status == 0
    assert report is not None
    assert report.resumed is not None
    assert report.resumed.step == 6
    assert (again.weights(), again.log()) == (whole.weights(), whole.log())


def test_sigterm_in_an_evaluation_ends_at_once(models: Path, tmp_path: Path) -> None:
    changes = job(models, "pairs", 12, training__evaluateEverySteps=3)
    stopped = Attempt(tmp_path, to(tmp_path, changes))

    def stop(record: ProgressRecord) -> None:
        if record.progress.phase == "Evaluating" and record.progress.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    status, report, records = stopped.run(stop)
    assert status == 143
    assert report is not None
    assert report.checkpoint is not None
    assert report.checkpoint.step < 6
    assert records[-1].progress.phase == "Evaluating"


def test_sigterm_with_too_short_a_grace_keeps_the_last_checkpoint(
    models: Path, tmp_path: Path
) -> None:
    stopped = Attempt(tmp_path, to(tmp_path, job(models, "pairs", 12)), grace=2)

    def stop(record: ProgressRecord) -> None:
        if record.progress.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    status, report, _ = stopped.run(stop)
    assert status == 143
    assert report is not None
    assert report.checkpoint is not None
    assert report.checkpoint.step < 6


def test_a_changed_job_is_not_resumed(models: Path, tmp_path: Path) -> None:
    changes = to(tmp_path, job(models, "pairs", 12))
    killed = Attempt(tmp_path, changes)
    assert killed.run(kill_at(4, tmp_path))[0] == -signal.SIGKILL
    other = {"tuning.lora": {"rank": 8, "dropout": 0.1}, "training.seed": 7}
    status, report, _ = Attempt(tmp_path, changes | other, number=2).run()
    assert status == 65
    assert report is not None
    assert report.reason is Reason.RESUME_INCOMPATIBLE
    assert "tuning.lora.rank: 4 in the checkpoint, 8 now" in report.message
    assert "settings.seed: 42 in the checkpoint, 7 now" in report.message
