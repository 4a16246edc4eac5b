"""Does every method learn? One real run each, with held-out figures before and after.

    make bench-learning ARGS="--only DPO PPO"

Trains SmolLM2-135M-Instruct on the data of `examples/02-rlhf-chain` through the trainer's own entry
point: preference and online methods go on from the supervised run's output, the student of the
distillation starts at the base. Prints a table and writes `benchmarks/results/learning.json`. It
measures learning, not speed: the seconds tell only what to expect.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from finetune_api.records import Report
from support.definition import ROOT
from support.jobs import manifest

RESULTS = ROOT / "benchmarks/results/learning.json"
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate")
SHORT = {"maxNewTokens": 24}


@dataclass(frozen=True)
class Run:
    """One method's run.

    Attributes:
        method: Its type.
        data: Which data set of the example.
        steps: Optimiser steps.
        rate: Learning rate.
        figure: The held-out figure that shows learning.
        rises: Whether more is better.
        block: Settings of the method.
        start: `base`, or `SFT` for that run's output.
        batch: Rows a step.
    """

    method: str
    data: str
    steps: int
    rate: float
    figure: str
    rises: bool = True
    block: dict[str, Any] = field(default_factory=dict)
    start: str = "SFT"
    batch: int = 4


RUNS = (
    Run("SFT", "sft", 30, 1e-3, "loss", rises=False, start="base", batch=8),
    Run("Reward", "preferences", 12, 5e-4, "rewardAccuracy"),
    Run("PPO", "prompts", 12, 5e-4, "reward", batch=12, block={
        "rewardModel": "Reward", "klCoefficient": 0.02, "epochs": 2, "generation": SHORT}),
    Run("DPO", "preferences", 8, 3e-4, "rewardMargin"),
    Run("IPO", "preferences", 8, 3e-4, "rewardMargin"),
    Run("KTO", "judgements", 8, 5e-4, "rewardMargin", batch=8),
    Run("ORPO", "preferences", 8, 5e-4, "rewardMargin"),
    Run("CPO", "preferences", 8, 3e-4, "rewardMargin"),
    Run("SimPO", "preferences", 8, 3e-4, "rewardMargin"),
    Run("GRPO", "prompts", 6, 5e-4, "reward", block={
        "rewardModel": "Reward", "answersPerPrompt": 4, "generation": SHORT}),
    Run("RLOO", "prompts", 6, 5e-4, "reward", block={
        "rewardModel": "Reward", "answersPerPrompt": 4, "beta": 0.01, "generation": SHORT}),
    Run("Distillation", "prompts", 8, 5e-4, "teacherKl", rises=False, start="base", block={
        "teacher": "SFT", "generation": SHORT}),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a run gave: its figure on held-out rows."""

    method: str
    figure: str
    before: float
    after: float
    steps: int
    seconds: float

    def learnt(self, *, rises: bool) -> bool:
        """Whether the figure went the right way."""
        return self.after > self.before if rises else self.after < self.before


class Bench:
    """Runs below one folder; outputs are found by the method's name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = _prepared(folder)
        _judgements(folder / "data")

    def run(self, run: Run) -> Found:
        """Train, and read the figure out of the report."""
        began = time.monotonic()
        report = self._train(manifest(run.method.lower(), self._spec(run)))
        seconds = time.monotonic() - began
        if report.outcome != "Complete" or report.evaluation is None:
            raise SystemExit(f"{run.method}: {report.reason}: {report.message}")
        before, after = _figure(report, run.figure)
        return Found(run.method, run.figure, before, after, run.steps, round(seconds, 1))

    def _spec(self, run: Run) -> dict[str, Any]:
        block = {name: self._uri(name, value) for name, value in run.block.items()}
        return {
            "model.source": self._source(run.start),
            "data.train": [{"source": self._rows(run.data, "train")}],
            "data.evaluation": {"sources": [{"source": self._rows(run.data, "evaluation")}]},
            "method": {"type": run.method, **({run.method.lower(): block} if block else {})},
            "training": {"maxSteps": run.steps, "batchSize": run.batch,
                         "learningRate": run.rate, "seed": 42},
            "output.uri": f"file://{self.folder}/out/{run.method}",
        }  # fmt: skip

    def _uri(self, name: str, value: object) -> object:
        return self._source(str(value)) if name in ("rewardModel", "teacher") else value

    def _source(self, name: str) -> str:
        return f"file://{self.base if name == 'base' else self.folder / 'out' / name}"

    def _rows(self, data: str, part: str) -> str:
        return f"file://{self.folder}/data/{data}-{part}.jsonl"

    def _train(self, job: dict[str, Any]) -> Report:
        from finetune_trainer.__main__ import run_file

        file = self.folder / "job.yaml"
        YAML().dump(job, file)
        environment = {**os.environ, "FINETUNE_SCRATCH": str(self.folder / "scratch")}
        with (self.folder / "log.jsonl").open("a") as log:
            return run_file(file, environment, log)


def _prepared(folder: Path) -> Path:
    """The model and the data, made by the examples' own scripts."""
    examples = ROOT / "examples"
    script = str(examples / "02-rlhf-chain/prepare.py")
    subprocess.run([sys.executable, "-P", script, "--data", str(folder / "data")], check=True)
    code = "import prepare; print(prepare.converted_model())"
    environment = {**os.environ, "PYTHONPATH": str(examples / "01-kubectl-assistant")}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    return Path(said.splitlines()[-1])


def _judgements(folder: Path) -> None:
    """The preferences one answer at a time, for KTO."""
    for part in ("train", "evaluation"):
        pairs = (folder / f"preferences-{part}.jsonl").read_text("utf-8").splitlines()
        rows = [
            {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
            for pair in map(json.loads, pairs)
            for side in ("chosen", "rejected")
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"judgements-{part}.jsonl").write_text(lines, "utf-8")


def _figure(report: Report, name: str) -> tuple[float, float]:
    evaluation = report.evaluation
    if evaluation is None:
        raise SystemExit("the report holds no evaluation")
    if name == "loss":
        return float(evaluation.loss_before or "nan"), float(evaluation.loss_after or "nan")
    metric = next(each for each in evaluation.metrics or () if each.name == name)
    return float(metric.before), float(metric.after)


def main() -> int:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="methods; SFT and Reward run anyway")
    given = parser.parse_args()
    wanted = {*given.only, "SFT", "Reward"} if given.only else {run.method for run in RUNS}
    chosen = [run for run in RUNS if run.method in wanted]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        print(f"{'method':14}{'figure':14}{'before':>10}{'after':>10}{'steps':>7}{'seconds':>9}")
        found = [_told(bench.run(run)) for run in chosen]
    if not given.only:
        _keep(found)
    pairs = zip(chosen, found, strict=True)
    failed = [run.method for run, each in pairs if not each.learnt(rises=run.rises)]
    if failed:
        print(f"did not learn: {', '.join(failed)}")
    return 1 if failed else 0


def _told(found: Found) -> Found:
    figures = f"{found.before:10.4f}{found.after:10.4f}{found.steps:7}{found.seconds:9.1f}"
    print(f"{found.method:14}{found.figure:14}{figures}", flush=True)
    return found


def _keep(found: list[Found]) -> None:
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "model": "SmolLM2-135M-Instruct",
        "runs": [asdict(each) for each in found],
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
