"""Fifty steps with and without fast paths, rows kept apart, the order of rows, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_api.v1alpha1.reasons import Reason
from finetune_kernels import launch
from finetune_trainer.batches import Collator
from finetune_trainer.fast import choice, prefix_attention
from finetune_trainer.fast.flat import FlatCollator, tokens
from finetune_trainer.fast.order import SortedSteps
from support.tiny_models import pairs, tiny_model, write_jsonl

STEPS = 50


def uneven(count: int) -> list[dict[str, Any]]:
    return [
        {**row, "completion": " ".join([row["completion"]] * (1 + number % 4))}
        for number, row in enumerate(pairs(count))
    ]


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


def test_rows_in_one_row_are_the_rows_alone(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "m", "mistral")).eval()
    prefix_attention.install(model)
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 90, (n,), generator=draw).tolist() for n in (5, 1, 9)]
    examples = [{"input_ids": row, "labels": list(row)} for row in rows]
    flat, padded = FlatCollator(0)(examples), Collator(0)(examples)
    assert int(tokens(flat)) == int(tokens(padded)) == 15
    # Each row's first token has nothing before it that could predict it.
    assert [place for place, label in enumerate(flat["labels"][0]) if label == -100] == [0, 5, 6]
    with torch.no_grad():
        found = model(**{n: each for n, each in flat.items() if n != "labels"}).logits[0]
        alone = [model(torch.tensor([row])).logits[0] for row in rows]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_only_rows_of_one_step_trade_places() -> None:
    lengths = [3, 9, 1, 7, 7, 2, 8]
    order = [6, 0, 2, 3, 4, 1, 5]
    found = list(SortedSteps(order, lengths, 3))
    assert found == [6, 0, 2, 1, 3, 4, 5]
    assert len(SortedSteps(order, lengths, 3)) == 7


def test_triton_without_a_gpu_is_refused_before_anything_is_loaded(
    laptop: Any, job: dict[str, Any]
) -> None:
    job["training"]["kernels"] = "Triton"
    report = laptop.run({**job, "output.uri": f"file://{laptop.folder}/out"}).report
    assert report.reason is Reason.UNSUPPORTED_COMBINATION
    assert "GPU" in report.message
