"""RLOO and distillation learn what they are asked to: slower than unit tests may be."""

import io
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import AutoTokenizer

from finetune_api.records import Report
from finetune_trainer.__main__ import run_file
from support.jobs import manifest
from support.taste import taste_model
from support.tiny_models import tiny_model, write_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    tiny_model(folder / "policy", hidden=32, layers=1, positions=64)
    tiny_model(folder / "teacher", hidden=64, layers=1, positions=64, seed=3)
    taste_model(folder / "taste", AutoTokenizer.from_pretrained(folder / "policy"))
    rows = [{"prompt": f"Say {number}:"} for number in range(40)]
    write_jsonl(folder / "data" / "prompts.jsonl", rows)
    return folder


def run(folder: Path, kind: str, block: dict[str, Any], changes: dict[str, Any]) -> Report:
    spec = {
        "model.source": f"file://{folder}/policy",
        "data.train": [{"source": f"file://{folder}/data/prompts.jsonl"}],
        "data.evaluation": {"fraction": 0.2},
        "output.uri": f"file://{folder}/{kind}",
        "training.batchSize": 8,
        "training.maxSteps": 15,
        "training.scheduler": {"type": "Constant"},
        "method": {"type": kind, kind.lower(): {"generation": {"maxNewTokens": 8}, **block}},
        **changes,
    }
    file = folder / f"{kind}.yaml"
    YAML().dump(manifest(kind.lower(), spec), file)
    report = run_file(file, {"FINETUNE_SCRATCH": str(folder / "scratch")}, io.StringIO())
    assert report.outcome == "Complete", report.message
    return report


def measured(report: Report, name: str) -> tuple[float, float]:
    assert report.evaluation is not None
    metric = next(each for each in report.evaluation.metrics or [] if each.name == name)
    return float(metric.before), float(metric.after)


def test_leave_one_out_raises_the_reward(folder: Path) -> None:
    block = {"rewardModel": f"file://{folder}/taste", "answersPerPrompt": 4, "beta": 0.01}
    report = run(folder, "RLOO", block, {"training.learningRate": 1e-2})
    before, after = measured(report, "reward")
    assert after > before + 0.2


def test_the_student_comes_nearer_to_its_teacher(folder: Path) -> None:
    block = {"teacher": f"file://{folder}/teacher"}
    changes = {"training.learningRate": 3e-3, "tuning.type": "Full"}
    before, after = measured(run(folder, "Distillation", block, changes), "teacherKl")
    assert after < 0.9 * before
