"""Whole runs of the kinds of tuning, from a manifest to an output that plain libraries open."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from finetune_trainer.__main__ import app
from support.preference_data import preferences
from support.tiny_models import chats, write_jsonl

TRAINING = {"learningRate": 3e-3, "maxSteps": 10, "batchSize": 8}
TOKENS = torch.arange(3, 40).unsqueeze(0)
Start = Callable[..., Any]


@pytest.fixture
def start(laptop: Any, model_folder: Path) -> Start:
    """Runs a tuning; gives its report, once it is complete."""

    def run(tuning: dict[str, Any], output: str = "out", **changes: Any) -> Any:
        method = changes.get("method", {"type": "SFT"})["type"]
        rows = chats(48) if method == "SFT" else preferences(48)
        write_jsonl(laptop.folder / "data" / "train.jsonl", rows)
        named = {name.replace("__", "."): value for name, value in changes.items()}
        report = laptop.run(
            {
                "model.source": f"file://{model_folder}",
                "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
                "data.evaluation": {"fraction": 0.25},
                "tuning": tuning,
                "training": TRAINING,
                "output.uri": f"file://{laptop.folder / output}",
                **named,
            }
        ).report
        assert report.outcome == "Complete", report.message
        return report

    return run


def folder(laptop: Any, output: str = "out") -> Path:
    manifest = json.loads((laptop.folder / output / "manifest.json").read_text())
    return Path(manifest["prefix"].removeprefix("file://"))


@torch.no_grad()
def logits(net: Any) -> torch.Tensor:
    return torch.as_tensor(net.eval()(TOKENS).logits)


def test_pissa_with_two_rates_on_pairs(start: Start, laptop: Any, model_folder: Path) -> None:
    lora = {"variant": "PiSSA", "learningRateRatio": 4, "rank": 8, "alpha": 16}
    dpo = {"beta": 0.5, "reference": {"precompute": False}}
    report = start({"lora": lora}, method={"type": "DPO", "dpo": dpo})
    figures = report.evaluation
    # With the adapter off, the policy is its reference, though it does not start at nothing.
    assert float(figures.loss_before) == pytest.approx(0.6931, abs=1e-3)
    assert float(figures.loss_after) < 0.6
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    net = PeftModel.from_pretrained(base, str(folder(laptop)))
    assert (net.peft_config["default"].r, net.peft_config["default"].lora_alpha) == (16, 32)
    tuned = logits(net)
    with net.disable_adapter():
        assert (tuned - logits(net)).abs().max() > 0.1


def test_lora_plus_changes_the_run(start: Start, laptop: Any) -> None:
    losses = {}
    for name, lora in (("plain", {}), ("faster", {"learningRateRatio": 8})):
        start({"lora": lora}, output=name, training={**TRAINING, "learningRate": 2e-4})
        lines = (folder(laptop, name) / "training_log.jsonl").read_text().splitlines()
        losses[name] = [e["loss"] for e in map(json.loads, lines) if "loss" in e]
    assert losses["faster"][0] == losses["plain"][0]
    assert losses["faster"][-1] < losses["plain"][-1] - 0.5


def quantized(kind: str, **lora: object) -> dict[str, Any]:
    return {"type": "QLoRA", "quantization": {"type": kind}, "lora": lora}


def test_qlora_and_its_commands(start: Start, laptop: Any, model_folder: Path) -> None:
    report = start(quantized("NF4", variant="LoftQ"))
    assert float(report.evaluation.loss_after) < 0.7 * float(report.evaluation.loss_before)
    whole = AutoModelForCausalLM.from_pretrained(model_folder)
    assert report.plan.total_parameters > sum(p.numel() for p in whole.parameters())
    manifest = json.loads((laptop.folder / "out" / "manifest.json").read_text())
    assert manifest["quantization"] == {"type": "NF4", "doubleQuant": True}
    # The figures come out again only on a base that is held as it was in training.
    answered = CliRunner().invoke(app, ["evaluate", str(laptop.folder / "out")])
    assert answered.exit_code == 0, answered.output
    assert "same" in answered.output


def test_qlora_on_an_adapter_on_pairs(start: Start, laptop: Any, model_folder: Path) -> None:
    start({"lora": {"rank": 4}}, output="first", method={"type": "DPO"})
    chain = {"model__source": f"file://{laptop.folder / 'first'}"}
    dpo = {"type": "DPO", "dpo": {"reference": {"precompute": False}}}
    report = start(quantized("Int8"), output="second", method=dpo, **chain)
    # The quantised base without the adapter is the reference.
    assert float(report.evaluation.loss_before) == pytest.approx(0.6931, abs=1e-3)
    assert float(report.evaluation.loss_after) < 0.65
