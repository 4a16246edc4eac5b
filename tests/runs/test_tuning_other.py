"""An adapter by PEFT's own name, from manifest to reload by stock libraries."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from finetune_trainer import merge
from support.tiny_models import pairs, write_jsonl


def test_a_run_with_one_of_them(laptop: Any, model_folder: Path) -> None:
    write_jsonl(laptop.folder / "train.jsonl", pairs(48))
    report = laptop.run({
        "model.source": f"file://{model_folder}",
        "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
        "data.evaluation": {"fraction": 0.1},
        # Its start changes the model, and the first step is held to it all the same.
        "tuning": {"type": "Other", "other": {"name": "FOURIERFT", "arguments": {"n_frequency": 64}}},
        "training": {"learningRate": 3e-2, "maxSteps": 12, "batchSize": 4},
        "output.uri": f"file://{laptop.folder}/out",
    }).report  # fmt: skip
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < 0.9 * float(report.evaluation.loss_before)
    manifest = json.loads((laptop.folder / "out" / "manifest.json").read_text())
    folder = Path(manifest["prefix"].removeprefix("file://"))
    assert {each.shape for each in load_file(folder / "adapter_model.safetensors").values()} == {
        (64,)
    }
    batch = AutoTokenizer.from_pretrained(folder)("Thing 3 is red.", return_tensors="pt")
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_folder), str(folder)
    )
    merged = merge.merge(AutoModelForCausalLM.from_pretrained(model_folder), folder, "the output")
    torch.testing.assert_close(
        merged(**batch).logits, theirs.eval()(**batch).logits, rtol=1e-3, atol=1e-3
    )
