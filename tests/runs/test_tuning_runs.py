"""Whole runs of the kinds of tuning, from a manifest to an output that plain libraries open."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Adafactor, AutoModelForCausalLM, AutoTokenizer, Trainer
from typer.testing import CliRunner

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.__main__ import app
from finetune_trainer.environment import read
from finetune_trainer.sources import Finder
from finetune_trainer.storage import Storage
from support.preference_data import preferences
from support.tiny_models import chats, tiny_model, write_jsonl

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
    training = {**TRAINING, "learningRate": 1e-3}
    report = start({"lora": lora}, method={"type": "DPO", "dpo": dpo}, training=training)
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


@pytest.mark.parametrize(
    ("tuning", "stored"),
    [
        ({"type": "QLoRA", "quantization": {"type": "NF4"}}, torch.bfloat16),
        ({"lora": {"variant": "DoRA"}}, torch.float32),
        ({"lora": {"variant": "OLoRA"}}, torch.float16),
    ],
)
def test_merged_weights_beside_the_adapter(
    start: Start, laptop: Any, tmp_path: Path, tuning: dict[str, Any], stored: torch.dtype
) -> None:
    base = tiny_model(tmp_path / "base", "qwen2", dtype=str(stored).removeprefix("torch."))
    start(tuning, output__merged=True, model__source=f"file://{base}")
    output = folder(laptop)
    manifest = json.loads((laptop.folder / "out" / "manifest.json").read_text())
    checked = manifest["verification"]["merged"]
    assert checked["relativeDifference"] <= checked["tolerance"]
    assert checked["relativeDifference"] < 0.1 * checked["adapterRelativeDifference"]
    tensors = load_file(output / "merged" / "model.safetensors")
    assert {each.dtype for each in tensors.values()} == {stored}
    assert json.loads((output / "merged" / "config.json").read_text())["dtype"] == str(
        stored
    ).removeprefix("torch.")

    # The formula by hand: W + alpha / rank * B A, at one module of a plain LoRA.
    if "variant" not in tuning.get("lora", {}):
        name = "model.layers.1.self_attn.v_proj"
        whole = load_file(base / "model.safetensors")[f"{name}.weight"].float()
        adapter = load_file(output / "adapter_model.safetensors")
        a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        wanted = whole + 2 * b @ a
        # Both the update and the sum are rounded to eight bits.
        rounding = 2**-8 * (wanted.abs() + (wanted - whole).abs())
        assert ((tensors[f"{name}.weight"].float() - wanted).abs() <= rounding).all()

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    alone = AutoModelForCausalLM.from_pretrained(output / "merged", dtype=torch.float32)
    untuned = logits(plain)
    adapted = logits(PeftModel.from_pretrained(plain, str(output)))
    lost = (logits(alone) - adapted).norm() / (untuned - adapted).norm()
    assert lost < {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.1}[stored]
    assert alone.config.use_cache
    assert alone.generation_config.eos_token_id
    assert AutoTokenizer.from_pretrained(output / "merged").chat_template
    assert "`merged`" in (output / "README.md").read_text()
    # What is evaluated again is the adapter; what another job goes on from are the merged weights.
    answered = CliRunner().invoke(app, ["evaluate", str(laptop.folder / "out")])
    assert answered.exit_code == 0, answered.output
    storage = Storage(None, read({}, tmp_path))
    found = Finder(storage, {}, local=True).model(f"file://{laptop.folder / 'out'}")
    assert not found.adapters
    assert found.fetch(tmp_path / "fetched").folder.name == "merged"


@pytest.mark.parametrize(
    "tuning", [{"type": "Full"}, {"type": "PromptTuning"}, {"type": "PrefixTuning"}]
)
def test_what_cannot_be_merged_is_refused_at_apply(laptop: Any, tuning: dict[str, Any]) -> None:
    outcome = laptop.run({"tuning": tuning, "output.merged": True})
    assert outcome.report.reason is Reason.INVALID_SPEC
    assert "merge" in outcome.report.message


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("AdamW8bit", bitsandbytes.optim.AdamW),
        ("PagedAdamW8bit", bitsandbytes.optim.AdamW),
        ("Adafactor", Adafactor),
    ],
)
def test_each_optimizer_trains(
    start: Start, monkeypatch: pytest.MonkeyPatch, name: str, kind: Any
) -> None:
    made: list[Any] = []
    create = Trainer.create_optimizer

    def noting(self: Any, *arguments: Any) -> Any:
        made.append(create(self, *arguments))
        return made[-1]

    monkeypatch.setattr(Trainer, "create_optimizer", noting)
    scheduler = {"type": "WarmupStableDecay"}
    training = {**TRAINING, "maxSteps": 8, "optimizer": name, "scheduler": scheduler}
    report = start({"lora": {"learningRateRatio": 2}}, training=training)
    assert float(report.evaluation.loss_after) < 0.8 * float(report.evaluation.loss_before)
    assert {type(each) for each in made} == {kind}
    if kind is not Adafactor:
        assert made[0].args.optim_bits == 8
    assert getattr(made[0], "is_paged", False) == name.startswith("Paged")
