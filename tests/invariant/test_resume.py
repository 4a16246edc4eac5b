"""A run that was killed with SIGKILL and went on from its checkpoint is the run that never was killed.

Each case is three real processes, forked once the libraries are imported: one undisturbed, one that is
killed in the middle, and the attempt after it. Adapter, losses, evaluations and answers must be the
same to the bit.
"""

import io
import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from torch.nn import Embedding
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoTokenizer

from finetune_api.records import ExitCode, ProgressRecord, Report, parse_record, parse_report
from finetune_api.run_file import JobIdentity, RunFile
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import recipes, run
from finetune_trainer.__main__ import run_file
from finetune_trainer.environment import Environment
from finetune_trainer.progress import Reporter
from finetune_trainer.run_input import RunInput
from support.jobs import ABSENT, manifest, spec
from support.preference_data import judgements, preferences
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

    def run_file(self) -> RunFile:
        """What the operator would write for it."""
        job = JobIdentity(namespace="default", name="demo", uid=UID)
        return RunFile(
            job=job,
            attempt=self.number,
            spec=FineTuneJobSpec.model_validate(spec(self.changes)),
            micro_batch_divisor=self.divisor,
            grace_seconds=self.grace,
        )

    def _as_in_a_pod(self, _: RunInput, environment: Environment, reporter: Reporter) -> Report:
        reporter._interval = 0.0  # a record a step
        return run.execute(RunInput(run=self.run_file(), laptop=False), environment, reporter)

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

    def losses(self) -> list[float]:
        return [entry["loss"] for entry in self.log() if "loss" in entry]

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


def kill_at_record(number: int) -> Act:
    """Kills this process once it has told so much."""
    seen: list[ProgressRecord] = []

    def act(record: ProgressRecord) -> None:
        seen.append(record)
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "policy", hidden=32, layers=1, positions=128)
    tiny_model(folder / "deep", hidden=32, layers=3, positions=128)
    taste_model(folder / "taste", AutoTokenizer.from_pretrained(folder / "policy"))
    tiny_model(folder / "teacher", hidden=64, layers=1, positions=128, seed=3)
    tiny_model(folder / "bert", "bert", hidden=32, layers=1)
    write_jsonl(folder / "pairs.jsonl", pairs(34))
    texts = [{"text": each["prompt"] + each["completion"]} for each in pairs(34)]
    write_jsonl(folder / "texts.jsonl", texts)
    write_jsonl(folder / "judgements.jsonl", judgements(34))
    write_jsonl(folder / "prompts.jsonl", pairs(14))
    write_jsonl(folder / "preferences.jsonl", preferences(34))
    for method in ("SFT", "DPO", "PPO", "GRPO", "RLOO", "Distillation", "KTO"):
        recipes.load(method, "text-generation")
    recipes.load("SFT", "fill-mask")
    return folder


def job(models: Path, data: str, steps: int, **changes: Any) -> dict[str, Any]:
    """Two held-out rows, rows of unlike length, batches of 4 in passes of 2, a save every step."""
    return {
        "model": {"source": f"file://{models}/policy"},
        "data.train": [{"source": f"file://{models}/{data}.jsonl"}],
        "data.evaluation": {"fraction": 0.1},
        "training.batchSize": 4,
        "training.microBatchSize": 2,
        "training.maxSteps": steps,
        "training.learningRate": 3e-3,
        "training.logEverySteps": 1,
        "tuning": {"type": "LoRA"},
        "tuning.lora": {"rank": 4, "dropout": 0.1},
        "checkpoints.everySteps": 1,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }


@dataclass(frozen=True)
class Case:
    """A job that is killed in the middle; 31 rows in batches of 4 are 8 steps a pass.

    Attributes:
        data: Name of its file.
        steps: All of them.
        kill: The step at which it is killed.
        changes: Of the spec; `MODELS` in a value stands for the folder of the models.
    """

    data: str
    steps: int
    kill: int
    changes: dict[str, Any]

    def spec(self, models: Path) -> dict[str, Any]:
        """The changes of the minimal spec."""
        text = json.dumps({n: v for n, v in self.changes.items() if v is not ABSENT})
        changes = json.loads(text.replace("MODELS", f"file://{models}"))
        absent = {name: ABSENT for name, value in self.changes.items() if value is ABSENT}
        return job(models, self.data, self.steps) | changes | absent


def online(kind: str, **block: Any) -> dict[str, Any]:
    """A method whose model answers."""
    return {"method": {"type": kind, kind.lower(): {"generation": {"maxNewTokens": 6}, **block}}}


def full(changes: dict[str, Any]) -> dict[str, Any]:
    """All weights."""
    return {"tuning": {"type": "Full"}, "tuning.lora": ABSENT, **changes}


GROUP = {"rewardModel": "MODELS/taste", "answersPerPrompt": 4, "beta": 0.05}
PPO = {"rewardModel": "MODELS/taste", "klTarget": 3.0, "minibatches": 2, "epochs": 2}
ADALORA = {"initialRank": 6, "targetRank": 2}
STOPPING = {"training.earlyStopping": {"patience": 2, "threshold": 0.5}}
CASES = {
    "SFT": Case("pairs", 20, 11, {}),
    "at the end of a pass": Case("pairs", 18, 8, {}),
    "packed": Case("pairs", 10, 4, {"data.packing": "Enabled", "data.maxLength": 128}),
    "full, stops early": Case("pairs", 40, 5, full({"training.evaluateEverySteps": 2, **STOPPING})),
    "AdaLoRA": Case(
        "pairs", 20, 7, {"tuning": {"type": "AdaLoRA", "adalora": ADALORA}, "tuning.lora": ABSENT}
    ),
    "PiSSA": Case("pairs", 8, 4, {"tuning.lora": {"rank": 4, "variant": "PiSSA"}}),
    # Three layers, whose inputs wait elsewhere and are computed on again with the dropout that they had.
    "offloaded": Case(
        "pairs",
        8,
        4,
        {"model": {"source": "MODELS/deep"}, "training.gradientCheckpointing": "Offload"},
    ),
    "streamed": Case("pairs", 12, 9, {"data.streaming": True, "data.evaluation": ABSENT}),
    "fill-mask": Case("texts", 14, 10, {"model": {"source": "MODELS/bert", "task": "fill-mask"}}),
    "DPO": Case("preferences", 18, 10, {"method": {"type": "DPO"}}),
    "KTO": Case("judgements", 12, 7, {"method": {"type": "KTO"}}),
    "PPO": Case("prompts", 7, 5, online("PPO", **PPO)),
    "GRPO": Case("prompts", 7, 4, online("GRPO", **GROUP)),
    "RLOO": Case("prompts", 7, 4, online("RLOO", **GROUP)),
    "Distillation": Case("prompts", 7, 5, online("Distillation", teacher="MODELS/teacher")),
}


def places(tmp_path: Path) -> Iterator[Path]:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        yield tmp_path / name


def to(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    return changes | {"output.uri": f"file://{folder}/out"}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_as_the_undisturbed_one(name: str, models: Path, tmp_path: Path) -> None:
    changes, at = CASES[name].spec(models), CASES[name].kill
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
    told = {each.field: each.value for each in report.resolved or ()}
    asked = changes.get("training.gradientCheckpointing")
    assert asked in (None, told["training.gradientCheckpointing"])
    steps = [each.progress.step for each in records if each.progress.phase == "Training"]
    assert min(step for step in steps if step) == at

    assert again.weights() == whole.weights()
    assert again.log() == whole.log()
    for file in ("evaluation.json", "samples.jsonl"):
        assert again.text(file) == whole.text(file)
    # What is no longer needed is gone.
    assert not list((folder / "out" / "checkpoints").glob("**/*.safetensors"))


def test_twenty_kills_anywhere_change_nothing(models: Path, tmp_path: Path) -> None:
    """At random records: while data and model are loaded, in the first evaluation, in steps."""
    changes = job(models, "pairs", 90, checkpoints__everySteps=2)
    whole_folder, folder = places(tmp_path)
    whole = Attempt(whole_folder, to(whole_folder, changes))
    assert whole.run()[0] == 0

    chance, begun = random.Random(7), []  # noqa: S311
    for number in range(1, 21):
        attempt = Attempt(folder, to(folder, changes), number)
        status, _, records = attempt.run(kill_at_record(chance.randint(1, 16)))
        assert status == -signal.SIGKILL
        begun += [records[-1].resumed.step] if records[-1].resumed else []
    last = Attempt(folder, to(folder, changes), 21)
    status, report, _ = last.run()
    assert status == 0, report
    # What was reached is never lost.
    assert begun == sorted(begun)
    assert begun[-1] > 15
    assert (last.weights(), last.log()) == (whole.weights(), whole.log())
    assert last.text("evaluation.json") == whole.text("evaluation.json")


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


def test_a_poisoned_batch_ends_the_run_and_leaves_a_checkpoint_from_before(
    models: Path, tmp_path: Path
) -> None:
    def poison(record: ProgressRecord) -> None:
        if record.progress.step == 6:
            register_module_forward_hook(
                lambda module, _, output: (
                    output * float("nan") if isinstance(module, Embedding) else None
                )
            )

    attempt = Attempt(tmp_path, to(tmp_path, job(models, "pairs", 12)))
    status, report, _ = attempt.run(poison)
    assert status == ExitCode.DIVERGED
    assert report is not None
    assert report.reason is Reason.DIVERGED
    assert "step 7" in report.message
    assert report.checkpoint is not None
    assert report.checkpoint.step <= 6
    status, report, _ = replace(attempt, number=2).run()
    assert (status, report and report.outcome) == (0, "Complete")


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


def test_a_smaller_micro_batch_goes_on_with_the_same_rows(models: Path, tmp_path: Path) -> None:
    """Sums are taken in another order then, so losses agree but not to the bit."""
    changes = job(models, "pairs", 12) | {"tuning.lora": {"rank": 4}}
    whole_folder, folder = places(tmp_path)
    whole = Attempt(whole_folder, to(whole_folder, changes))
    assert whole.run()[0] == 0
    killed = Attempt(folder, to(folder, changes))
    assert killed.run(kill_at(6, folder))[0] == -signal.SIGKILL
    again = replace(killed, number=2, divisor=2)
    status, report, _ = again.run()
    assert status == 0, report
    assert report is not None
    assert report.resumed is not None
    assert report.resumed.step == 5
    resolved = json.loads(again.text("resolved.json") or "")["resolved"]
    (micro,) = [each for each in resolved if each["field"] == "training.microBatchSize"]
    assert micro["value"] == "1"
    assert "memory ran out" in micro["why"]
    losses = [[entry["loss"] for entry in each.log()] for each in (again, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
