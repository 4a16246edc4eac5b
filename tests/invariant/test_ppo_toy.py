"""PPO on a toy reward: what it learns, what it pays, and that a seed gives one curve, bit for bit.

Run as a script, it prints the figures that the documentation quotes:
`PYTHONPATH=tests .venv/bin/python -P tests/invariant/test_ppo_toy.py`.
"""

import io
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from finetune_api.records import Report
from finetune_trainer.__main__ import run_file
from support.jobs import manifest
from support.taste import taste_model
from support.tiny_models import tiny_model, write_jsonl

STEPS = 20


@dataclass(frozen=True)
class Toy:
    """What one run showed."""

    report: Report
    log: list[dict[str, Any]]
    seconds: float

    @property
    def curve(self) -> list[tuple[float, ...]]:
        """Reward, divergence and losses of every step, in full precision."""
        names = ("reward", "kl", "loss", "policyLoss", "valueLoss", "entropy", "gradientNorm")
        return [tuple(entry[name] for name in names) for entry in self.log]

    def measured(self, name: str) -> tuple[float, float]:
        """A held-out figure before and after."""
        evaluation = self.report.evaluation
        assert evaluation is not None
        metric = next(each for each in evaluation.metrics or [] if each.name == name)
        return float(metric.before), float(metric.after)


def play(folder: Path, name: str, changes: dict[str, Any] | None = None) -> Toy:
    """One run of PPO against the model that likes letters."""
    base = folder / "model"
    if not base.exists():
        from transformers import AutoTokenizer

        tiny_model(base, hidden=32, layers=1, positions=64)
        taste_model(folder / "taste", AutoTokenizer.from_pretrained(base))
        words = ("Go", "Say", "Tell", "Name", "Now", "Why", "Who", "One")
        rows = [{"prompt": f"{word} {number}:"} for number in range(10) for word in words]
        write_jsonl(folder / "data" / "prompts.jsonl", rows)
    job = manifest(
        name,
        {
            "model.source": f"file://{base}",
            "data.train": [{"source": f"file://{folder}/data/prompts.jsonl"}],
            "data.evaluation": {"fraction": 0.2},
            "data.format": "PromptOnly",
            "output.uri": f"file://{folder}/{name}",
            "resources.gpusPerNode": 0,
            "training.batchSize": 32,
            "training.microBatchSize": 32,
            "training.maxSteps": STEPS,
            "training.learningRate": 1e-2,
            "training.logEverySteps": 1,
            "training.scheduler": {"type": "Constant"},
            "method": {
                "type": "PPO",
                "ppo": {
                    "rewardModel": f"file://{folder}/taste",
                    "klCoefficient": 0.02,
                    "generation": {"maxNewTokens": 10},
                },
            },
            **(changes or {}),
        },
    )
    file = folder / f"{name}.yaml"
    YAML().dump(job, file)
    variables = {"FINETUNE_SCRATCH": str(folder / "scratch")}
    started = time.monotonic()
    report = run_file(file, variables, io.StringIO())
    assert report.outcome == "Complete", report.message
    published = json.loads((folder / name / "manifest.json").read_text())["prefix"]
    lines = (Path(published.removeprefix("file://")) / "training_log.jsonl").read_text()
    log = [entry for entry in map(json.loads, lines.splitlines()) if "reward" in entry]
    return Toy(report, log, time.monotonic() - started)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="module")
def first(folder: Path) -> Toy:
    return play(folder, "first")


def test_the_reward_rises_and_the_divergence_with_it(first: Toy) -> None:
    start, end = first.log[0], first.log[-1]
    assert len(first.log) == STEPS
    assert end["reward"] > start["reward"] + 0.5
    before, after = first.measured("reward")
    assert after > before + 0.5
    assert start["kl"] == 0
    assert 0 < first.measured("kl")[1] < 60
    assert first.measured("kl")[0] == 0


def test_a_seed_gives_one_curve_bit_for_bit(folder: Path, first: Toy) -> None:
    again = play(folder, "again")
    assert again.curve == first.curve
    other = play(folder, "other", {"training.seed": 7, "training.maxSteps": 2})
    assert other.curve[0] != first.curve[0]


def test_a_higher_price_keeps_the_policy_nearer(folder: Path, first: Toy) -> None:
    ppo = {"rewardModel": f"file://{folder}/taste", "generation": {"maxNewTokens": 10}}
    dear = {"method": {"type": "PPO", "ppo": {**ppo, "klCoefficient": 1.0}}}
    # Means, because a single step is noise: another processor rounds otherwise and takes another path.
    assert mean_kl(play(folder, "dear", dear)) < 0.85 * mean_kl(first)


def mean_kl(toy: Toy) -> float:
    """Divergence of the answers in training, as a mean over all steps."""
    return sum(entry["kl"] for entry in toy.log) / len(toy.log)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        toy, again = play(Path(name), "first"), play(Path(name), "again")
        for entry in toy.log:
            shown = ("reward", "kl", "entropy", "clipFraction", "explainedVariance")
            print(entry["step"], *(f"{key} {entry[key]:.3f}" for key in shown))
        print("held-out reward", *toy.measured("reward"), "kl", *toy.measured("kl"))
        print("the same seed gives the same curve:", toy.curve == again.curve)
        print(f"{toy.seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
