"""Runs on rows in mapped files publish, to the bit, what runs on rows in memory do."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer import run
from support.preference_data import judgements, preferences
from support.tiny_models import pairs, write_jsonl

GENERATION = {"generation": {"maxNewTokens": 6}, "answersPerPrompt": 4}
REWARDS = {
    "rewards": [{"type": "Regex", "pattern": "[a-m]"}, {"type": "ExactMatch", "column": "answer"}]
}


def answers(count: int) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "answer": row["completion"]} for row in pairs(count)]


METHODS: dict[str, tuple[Callable[[int], list[dict[str, Any]]], dict[str, Any]]] = {
    "KTO": (judgements, {}),
    "Reward": (preferences, {}),
    "GRPO": (answers, GENERATION | REWARDS),
}


def shown(report: Any) -> str:
    """All that the status tells, but for seconds and where it was."""
    told = [report.plan, report.evaluation, report.resolved]
    return re.sub(r"in [\d.]+ s|/out-\w+", "", repr(told))


def published(folder: Path) -> dict[str, bytes]:
    """Weights, the contract of the data, and the log without its times."""
    [attempt] = (folder / "attempts").iterdir()
    names = ("adapter_model.safetensors", "data_contract.json", "data_samples.md", "samples.jsonl")
    found = {name: (attempt / name).read_bytes() for name in names if (attempt / name).exists()}
    lines = map(json.loads, (attempt / "training_log.jsonl").read_text().splitlines())
    log = [{n: v for n, v in line.items() if "econd" not in n} for line in lines]
    return {**found, "log": repr(log).encode()}


@pytest.mark.parametrize("method", METHODS)
def test_training_is_the_same_to_the_bit(
    laptop: Any, model_folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, block = METHODS[method]
    write_jsonl(laptop.folder / "rows.jsonl", make(16))
    reports, outputs = [], []
    for store in ("mapped", "memory"):
        if store == "memory":
            monkeypatch.setattr(run, "TokenStore", lambda *_: None)
        output = laptop.folder / f"out-{store}"
        report = laptop.run(
            {
                "model.source": f"file://{model_folder}",
                "data.train": [{"source": f"file://{laptop.folder}/rows.jsonl"}],
                "data.evaluation": {"fraction": 0.25},
                "output.uri": f"file://{output}",
                "training": {
                    "maxSteps": 2,
                    "batchSize": 4,
                    "learningRate": 1e-3,
                    "logEverySteps": 1,
                },
                "method": {"type": method, method.lower(): block},
            }
        ).report
        assert report.outcome == "Complete", report.message
        reports.append(shown(report))
        outputs.append(published(output))
    assert (laptop.folder / "scratch" / "tokens" / "train.arrow").exists()
    assert reports[0] == reports[1]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 3
