"""Whole runs in this process: real model, real training, real files, read back by plain libraries."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.v1alpha1.reasons import Reason
from support.tiny_models import chats, pairs, write_jsonl

RATE = {"training.learningRate": 3e-3}


@dataclass(frozen=True)
class Workshop:
    """A model, data and an output folder for runs of this test."""

    laptop: Any
    model: Path
    output: Path

    def run(self, changes: dict[str, Any] | None = None, output: str = "out") -> Any:
        return self.laptop.run(
            {
                "model.source": f"file://{self.model}",
                "data.train": [{"source": f"file://{self.laptop.folder}/data/train.jsonl"}],
                "output.uri": f"file://{self.output.parent / output}",
                **(changes or {}),
            }
        )

    def manifest(self, output: str = "out") -> dict[str, Any]:
        content = (self.output.parent / output / "manifest.json").read_text()
        return dict(json.loads(content))

    def published(self, output: str = "out") -> Path:
        return Path(self.manifest(output)["prefix"].removeprefix("file://"))

    def losses(self, output: str = "out") -> list[float]:
        lines = (self.published(output) / "training_log.jsonl").read_text().splitlines()
        return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.fixture
def workshop(laptop: Any, model_folder: Path) -> Workshop:
    write_jsonl(laptop.folder / "data" / "train.jsonl", chats(64))
    model = shutil.copytree(model_folder, laptop.folder / "model")
    return Workshop(laptop, Path(model), laptop.folder / "out")


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    batch = tokenizer("Thing 3 is red. Which colour? ", return_tensors="pt")
    with torch.no_grad():
        return torch.as_tensor(model.eval()(**batch).logits)


def test_lora_from_manifest_to_verified_adapter(workshop: Workshop) -> None:
    changes = {**RATE, "data.evaluation": {"fraction": 0.1}, "training.evaluateEverySteps": 10}
    outcome = workshop.run(changes)
    report, manifest, folder = outcome.report, workshop.manifest(), workshop.published()
    assert (report.outcome, report.reason, report.exit_code) == ("Complete", "OutputPublished", 0)

    # It learned, and said so while it did.
    assert float(report.evaluation.loss_after) < 0.5 < 5 < float(report.evaluation.loss_before)
    assert outcome.phases[:3] == ["PreparingData", "LoadingModel", "PreparingData"]
    assert outcome.phases[-4:] == ["Evaluating", "Saving", "Publishing", "Verifying"]
    last = report.progress
    # 58 rows in batches of 4, three times.
    assert (last.step, last.total_steps, last.percent, last.epoch) == (45, 45, 100, "3.00")
    assert report.plan.rows + report.plan.evaluation_rows == 64
    assert 0 < report.plan.trainable_parameters < report.plan.total_parameters
    resolved = {choice.field: choice.value for choice in report.resolved}
    assert resolved["training.maxSteps"] == "45"
    assert resolved["data.format"] == "Messages"

    # The manifest lists exactly the files there are, with their digests.
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {file["path"] for file in manifest["files"]} == present
    for file in manifest["files"]:
        content = (folder / file["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(content) == file["sizeBytes"]
    expected = {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"}
    expected |= {"chat_template.jinja", "training_log.jsonl", "evaluation.json", "resolved.json"}
    expected |= {"job.yaml", "run.json", "generation_config.json", "samples.jsonl"}
    assert expected <= present
    assert any(name.startswith("tensorboard/events") for name in present)
    digest = hashlib.sha256((workshop.output / "manifest.json").read_bytes()).hexdigest()
    assert report.output.manifest_digest == f"sha256:{digest}"
    verification = manifest["verification"]
    assert verification["maxLogitDifference"] <= verification["tolerance"] < 1e-2
    assert manifest["job"]["name"] == "demo"
    assert manifest["baseModel"] == f"file://{workshop.model}"

    # Held-out questions were answered before and after; afterwards by the rule of the data.
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 4
    assert all(each["after"].startswith("The colour of the thing is ") for each in samples)
    assert not any(each["before"].startswith("The colour") for each in samples)

    # Anybody can load it, and it is not the base model.
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"file://{workshop.model}"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token is not None
    base = AutoModelForCausalLM.from_pretrained(workshop.model)
    before = logits(base, tokenizer)
    adapted = PeftModel.from_pretrained(base, str(folder))
    assert (logits(adapted, tokenizer) - before).abs().max() > 0.1
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Thing 99 is red. Which colour? "}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    generated = adapted.generate(**prompt, max_new_tokens=24, do_sample=False)
    answer = tokenizer.decode(generated[0, prompt["input_ids"].shape[1] :])
    assert answer.startswith("The colour of the thing is ")
    assert answer.endswith("<|im_end|>")


def test_full_tuning_keeps_the_base_models_dtype(workshop: Workshop) -> None:
    weights = workshop.model / "model.safetensors"
    halved = {name: each.to(torch.bfloat16) for name, each in load_file(weights).items()}
    save_file(halved, weights, metadata={"format": "pt"})
    write_jsonl(workshop.laptop.folder / "data" / "train.jsonl", pairs(64))
    report = workshop.run(
        {**RATE, "tuning.type": "Full", "data.evaluation": {"fraction": 0.1}}
    ).report
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < 0.5 * float(report.evaluation.loss_before)
    assert report.plan.trainable_parameters == report.plan.total_parameters
    tuned = load_file(workshop.published() / "model.safetensors")
    assert {each.dtype for each in tuned.values()} == {torch.bfloat16}
    assert all(not torch.equal(tuned[name], halved[name]) for name in halved)
    AutoModelForCausalLM.from_pretrained(workshop.published())


def test_bfloat16_with_recomputed_activations(workshop: Workshop) -> None:
    training = {"training.precision": "BFloat16", "training.gradientCheckpointing": "Enabled"}
    report = workshop.run({**RATE, **training, "data.evaluation": {"fraction": 0.1}}).report
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < 1 < float(report.evaluation.loss_before)
    assert workshop.manifest()["verification"]["tolerance"] >= 2e-2


def test_loss_does_not_depend_on_how_a_batch_is_split(workshop: Workshop) -> None:
    # Rows of very different length: a mean of means would differ at once.
    rows = [
        {"prompt": "p", "completion": "the colour " * (1 + 7 * (number % 5))}
        for number in range(32)
    ]
    write_jsonl(workshop.laptop.folder / "data" / "train.jsonl", rows)
    steps = {**RATE, "training.maxSteps": 6, "training.batchSize": 8}
    for micro in (8, 2):
        changes = {**steps, "training.microBatchSize": micro}
        assert workshop.run(changes, f"out-{micro}").report.outcome == "Complete"
    whole, split = workshop.losses("out-8"), workshop.losses("out-2")
    assert len(whole) == 6
    assert whole[0] != whole[-1]
    assert split == pytest.approx(whole, rel=1e-4)


def test_early_stopping_publishes_the_best_evaluation(workshop: Workshop) -> None:
    # A rate that at some point makes things worse: the held-out loss falls and then rises.
    training = {"maxSteps": 40, "learningRate": 0.6, "evaluateEverySteps": 1}
    training |= {"earlyStopping": {"patience": 3}, "scheduler": {"type": "Constant"}}
    report = workshop.run({"training": training, "data.evaluation": {"fraction": 0.25}}).report
    assert report.outcome == "Complete", report.message
    stopped = {r.field: r.value for r in report.resolved}["training.earlyStopping"]
    step = int(stopped.removeprefix("stopped at step "))
    assert step < 40
    lines = (workshop.published() / "training_log.jsonl").read_text().splitlines()
    measured = [e["evaluationLoss"] for e in map(json.loads, lines) if "evaluationLoss" in e]
    assert len(measured) == step
    assert float(report.evaluation.loss_after) == pytest.approx(min(measured), abs=1e-3)
    assert min(measured) < measured[-1]


def test_the_best_evaluation_may_be_that_after_the_first_step(workshop: Workshop) -> None:
    # A has not moved by then: its gradient is zero while B is.
    training = {"maxSteps": 10, "learningRate": 1.0, "evaluateEverySteps": 1}
    training |= {"earlyStopping": {"patience": 1}, "scheduler": {"type": "Constant"}}
    report = workshop.run({"training": training, "data.evaluation": {"fraction": 0.25}}).report
    assert report.outcome == "Complete", report.message
    stopped = {r.field: r.value for r in report.resolved}["training.earlyStopping"]
    assert stopped == "stopped at step 2"


def test_same_seed_same_adapter(workshop: Workshop) -> None:
    steps = {**RATE, "training.maxSteps": 3, "tuning.lora": {"dropout": 0.1}}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        workshop.run({**steps, "training.seed": seed}, name)
    digests = [
        next(
            f["sha256"] for f in workshop.manifest(n)["files"] if f["path"].startswith("adapter_m")
        )
        for n in "abc"
    ]
    assert digests[0] == digests[1] != digests[2]


def test_evaluation_sources_and_text(workshop: Workshop) -> None:
    folder = workshop.laptop.folder / "data"
    texts = [{"text": row["prompt"] + row["completion"]} for row in pairs(47)]
    write_jsonl(folder / "train.jsonl", texts[:40])
    write_jsonl(folder / "test.jsonl", texts[40:])
    sources = [{"source": f"file://{folder}/test.jsonl"}]
    report = workshop.run({"training.maxSteps": 2, "data.evaluation": {"sources": sources}}).report
    assert (report.plan.rows, report.plan.evaluation_rows) == (40, 7)
    assert {r.field: r.value for r in report.resolved}["data.loss"] == "All"


def test_taken_output_is_refused_before_training(workshop: Workshop) -> None:
    steps = {"training.maxSteps": 1}
    assert workshop.run(steps).report.outcome == "Complete"
    before = sorted(workshop.output.rglob("*"))
    again = workshop.run(steps)
    assert again.report.reason is Reason.OUTPUT_CONFLICT
    assert "published by job default/demo" in again.report.message
    assert again.phases == ["PreparingData"]
    assert sorted(workshop.output.rglob("*")) == before


def test_weights_that_are_not_numbers(workshop: Workshop) -> None:
    weights = workshop.model / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    report = workshop.run().report
    assert (report.reason, report.exit_code) == (Reason.DIVERGED, 78)
    assert "loss is nan at step 1" in report.message
    assert not (workshop.output / "manifest.json").exists()


@pytest.mark.parametrize(
    ("damage", "reason", "code"),
    [
        ("changed", Reason.OUTPUT_VERIFICATION_FAILED, 70),
        ("lost", Reason.STORAGE_CORRUPTED, 75),
    ],
)
def test_nothing_is_published_that_came_back_damaged(
    workshop: Workshop, damage: str, reason: Reason, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.storage import again
    from finetune_trainer.storage.local import LocalPlace

    monkeypatch.setattr(again, "PATIENCE_SECONDS", {})

    store = LocalPlace.put

    def put(self: LocalPlace, source: Path, name: str) -> None:
        if name == "adapter_model.safetensors" and damage == "lost":
            return
        store(self, source, name)
        if name == "adapter_model.safetensors":
            (self.path / name).write_bytes(source.read_bytes()[:-1] + b"\x01")

    monkeypatch.setattr(LocalPlace, "put", put)
    report = workshop.run({"training.maxSteps": 1}).report
    assert (report.reason, report.exit_code) == (reason, code)
    assert "adapter_model.safetensors" in report.message
    assert not (workshop.output / "manifest.json").exists()


FAILURES: list[tuple[dict[str, Any], Callable[[Workshop], object], Reason, int, str]] = [
    ({}, lambda w: broken_line(w, 17), Reason.DATA_INVALID, 65, "train.jsonl line 17"),
    ({}, lambda w: data(w).write_text(""), Reason.DATA_EMPTY, 65, "train.jsonl has no rows"),
    (
        {},
        lambda w: data(w).write_text(data(w).read_text(), "utf-16"),
        Reason.DATA_ENCODING_UNKNOWN,
        65,
        "UTF-16",
    ),
    ({}, lambda w: data(w).unlink(), Reason.DATA_NOT_FOUND, 65, "train.jsonl"),
    (
        {},
        lambda w: data(w).write_text('{"messages": [{"role": "bot", "content": ""}]}'),
        Reason.DATA_INVALID,
        65,
        "line 1: messages, message 1: role 'bot'",
    ),
    (
        {"data.train": [{"source": "file:///etc/hostname"}]},
        lambda w: None,
        Reason.DATA_FORMAT_UNKNOWN,
        65,
        "no jsonl, json, csv, tsv, parquet or arrow file",
    ),
    (
        {},
        lambda w: (w.model / "model.safetensors").rename(w.model / "model.bin"),
        Reason.UNSAFE_WEIGHTS,
        65,
        "model.bin",
    ),
    (
        {},
        lambda w: (w.model / "modeling.py").write_text("raise SystemExit"),
        Reason.REMOTE_CODE_REFUSED,
        65,
        "modeling.py",
    ),
    (
        {"model.source": "file:///no/such/model"},
        lambda w: None,
        Reason.MODEL_NOT_FOUND,
        65,
        "file:///no/such/model",
    ),
    (
        {"tuning.lora": {"targets": ["query"]}},
        lambda w: None,
        Reason.TARGET_MODULES_NOT_FOUND,
        65,
        "q_proj",
    ),
    ({"data.maxLength": 8}, lambda w: None, Reason.ROWS_TOO_LONG, 65, "64 of 64 rows"),
    ({"data.chatTemplate": "{% if %}"}, lambda w: None, Reason.CHAT_TEMPLATE_ERROR, 65, "line 1"),
    (
        {"training.precision": "Float16"},
        lambda w: None,
        Reason.NOT_IMPLEMENTED,
        65,
        "spec.training.precision",
    ),
    (
        {"training.kernels": "Triton"},
        lambda w: None,
        Reason.UNSUPPORTED_COMBINATION,
        65,
        "`training.kernels: Triton` without a GPU",
    ),
]


@pytest.mark.parametrize(("changes", "prepare", "reason", "code", "words"), FAILURES)
def test_failures_have_a_reason(
    workshop: Workshop,
    changes: dict[str, Any],
    prepare: Callable[[Workshop], object],
    reason: Reason,
    code: int,
    words: str,
) -> None:
    prepare(workshop)
    report = workshop.run(changes).report
    assert (report.reason, report.exit_code) == (reason, code), report.message
    assert words in report.message
    assert report.hint
    assert not (workshop.output / "manifest.json").exists()


def data(workshop: Workshop) -> Path:
    return Path(workshop.laptop.folder / "data" / "train.jsonl")


def broken_line(workshop: Workshop, number: int) -> None:
    lines = data(workshop).read_text().splitlines()
    lines[number - 1] = lines[number - 1][:-2]
    data(workshop).write_text("\n".join(lines))
