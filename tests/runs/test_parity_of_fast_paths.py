"""Fifty steps of DPO and of GRPO with fast paths are those of TRL's own path and PEFT's own layers.

SFT has the same test in `tests/unit/trainer/test_fast_sft.py`.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.fast import answer_head, kernels
from finetune_trainer.fast.told import Fitted
from support.fast_paths import fast_paths
from support.preference_data import preferences
from support.taste import taste_model
from support.tiny_models import pairs, tiny_model, tiny_tokenizer, write_jsonl

STEPS = 50
SEEN = ("loss", "gradientNorm", "rewardMargin", "chosenLogProbability", "reward", "entropy")


def dpo(laptop: Any) -> dict[str, Any]:
    draw = random.Random(1)  # noqa: S311
    rows = [{**row, "rejected": row["rejected"] * draw.randint(1, 3)} for row in preferences(64)]
    write_jsonl(laptop.folder / "data" / "train.jsonl", rows)
    return {"method": {"type": "DPO"}, "training.batchSize": 8, "training.microBatchSize": 4}


def grpo(laptop: Any) -> dict[str, Any]:
    tiny_model(laptop.folder / "model", hidden=32, layers=1, positions=128)
    # Answers differ in what it scores, so that every step has something to learn from: gradients that
    # are rounding alone would be made large by Adam.
    taste_model(laptop.folder / "taste", tiny_tokenizer())
    rows = [{"prompt": row["prompt"]} for row in pairs(24)]
    write_jsonl(laptop.folder / "data" / "train.jsonl", rows)
    block = {
        "rewardModel": f"file://{laptop.folder}/taste",
        "answersPerPrompt": 4,
        "generation": {"maxNewTokens": 6},
    }
    return {
        "model.source": f"file://{laptop.folder}/model",
        "method": {"type": "GRPO", "grpo": block},
        "training.batchSize": 2,
        "training.microBatchSize": 4,
    }


def run(laptop: Any, job: dict[str, Any], name: str) -> tuple[Any, dict[str, list[float]]]:
    output = laptop.folder / name
    report = laptop.run({**job, "output.uri": f"file://{output}"}).report
    assert report.outcome == "Complete", report.message
    prefix = json.loads((output / "manifest.json").read_text())["prefix"]
    lines = (Path(prefix.removeprefix("file://")) / "training_log.jsonl").read_text().splitlines()
    log = [entry for entry in map(json.loads, lines) if "loss" in entry]
    return report, {each: [entry[each] for entry in log] for each in SEEN if each in log[0]}


@pytest.mark.parametrize("method", [dpo, grpo])
def test_fifty_steps(
    laptop: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    job = {
        "model.source": f"file://{model_folder}",
        "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
        "training": {"maxSteps": STEPS, "learningRate": 1e-3, "logEverySteps": 1},
        **method(laptop),
    }
    report, fast = run(laptop, job, "fast")
    assert fast_paths(report) == ("fused", "none")
    monkeypatch.setattr(kernels, "install", lambda ready, net: ready)
    monkeypatch.setattr(answer_head, "install", lambda *_, **__: Fitted("not wanted"))
    report, plain = run(laptop, job, "plain")
    assert fast_paths(report) == ("library", "padded")
    assert len(fast["loss"]) == len(plain["loss"]) == STEPS
    assert fast.keys() == plain.keys() >= {"loss", "gradientNorm"}
    for name, values in plain.items():
        # Log-probabilities are sums of some tens of tokens; all else is of the size of one.
        assert fast[name] == pytest.approx(values, abs=1e-5, rel=1e-6), name
    assert max(plain["gradientNorm"]) > 0.1
