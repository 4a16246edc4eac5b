"""Packed rows learn what the same rows learn alone."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from support.tiny_models import write_jsonl

RATE = {"training.learningRate": 3e-3}


def test_the_loss_is_that_of_the_same_rows_alone(laptop: Any, model_folder: Path) -> None:
    draw = random.Random(3)  # noqa: S311
    words = ["red", "green", "blue", "yellow"]
    rows = [
        {"prompt": f"{number} ", "completion": " ".join(draw.choices(words, k=1 + number % 9))}
        for number in range(24)
    ]
    write_jsonl(laptop.folder / "train.jsonl", rows)
    changes = {
        **RATE,
        "model.source": f"file://{model_folder}",
        "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
        "data.maxLength": 64,
        # More than there are sequences, so that each step takes all rows, packed or not.
        "training.batchSize": 24,
        "training.microBatchSize": 24,
        "training.maxSteps": 4,
        "training.scheduler": {"type": "Constant"},
    }
    losses = {}
    for packing in ("Enabled", "Disabled"):
        plan = {"data.packing": packing, "output.uri": f"file://{laptop.folder}/{packing}"}
        outcome = laptop.run({**changes, **plan})
        assert outcome.report.outcome == "Complete", outcome.report.message
        losses[packing] = _losses(laptop.folder / packing)
        chosen = {choice.field: choice.why for choice in outcome.report.resolved}
        assert ("logits of" in chosen.get("data.packing.isolation", "")) == (packing == "Enabled")
    assert len(losses["Enabled"]) == 4
    assert losses["Enabled"][0] > 1.01 * losses["Enabled"][-1]
    assert losses["Enabled"] == pytest.approx(losses["Disabled"], rel=1e-4)


def _losses(output: Path) -> list[float]:
    log = next(output.rglob("training_log.jsonl"))
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]
