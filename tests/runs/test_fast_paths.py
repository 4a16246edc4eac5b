"""Fifty steps of SFT with and without fast paths."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_kernels import launch
from finetune_trainer.fast import choice
from support.tiny_models import pairs, write_jsonl

STEPS = 50


@pytest.fixture
def job(laptop: Any, model_folder: Path) -> dict[str, Any]:
    write_jsonl(laptop.folder / "data" / "train.jsonl", uneven(48))
    shutil.copytree(model_folder, laptop.folder / "model")
    return {
        "model.source": f"file://{laptop.folder}/model",
        "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
        "data.packing": "Disabled",
        "training": {
            "maxSteps": STEPS, "batchSize": 8, "microBatchSize": 4, "learningRate": 3e-3,
            "logEverySteps": 1,
        },
    }  # fmt: skip


def uneven(count: int) -> list[dict[str, Any]]:
    return [
        {**row, "completion": " ".join([row["completion"]] * (1 + number % 4))}
        for number, row in enumerate(pairs(count))
    ]


def run(laptop: Any, job: dict[str, Any], name: str) -> tuple[list[float], dict[str, str]]:
    output = laptop.folder / name
    report = laptop.run({**job, "output.uri": f"file://{output}"}).report
    assert report.outcome == "Complete", report.message
    prefix = json.loads((output / "manifest.json").read_text())["prefix"]
    lines = (Path(prefix.removeprefix("file://")) / "training_log.jsonl").read_text().splitlines()
    losses = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    return losses, {each.field: each.value for each in report.resolved or []}


def test_fifty_steps_with_fast_paths_are_those_without(
    laptop: Any, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, told = run(laptop, job, "fast")
    assert told["training.kernels"] == "Torch"
    assert not launch._permitted
    assert told["training.kernels.loss"] == "fused"
    assert told["training.kernels.padding"] == "none"
    monkeypatch.setattr(choice, "settle", lambda ready, net: ready)
    plain, told = run(laptop, job, "plain")
    assert "training.kernels.loss" not in told
    assert len(fast) == len(plain) == STEPS
    # Sums in another order, enlarged by Adam from step to step.
    assert fast == pytest.approx(plain, rel=2e-4)
    assert plain[-1] < plain[0] / 2
