"""IA³ by its formula, on a frozen base, and opened by plain PEFT."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PhiConfig,
    PhiForCausalLM,
)

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import merge
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import CAUSAL, SEQUENCE_CLASSIFICATION, SEQUENCE_TO_SEQUENCE, Head
from finetune_trainer.tuning import apply as tunings
from support.tiny_models import pairs, tiny_model, write_jsonl


def adapted(base: Any, head: Head = CAUSAL, **block: Any) -> Any:
    tuning = Tuning.model_validate({"type": "IA3", "ia3": block})
    return tunings.apply(base, tuning, "s3://b/base", head, checkpointing=False)


def vectors(model: Any) -> dict[str, tuple[int, ...]]:
    """Trainable tensors by module, without PEFT's names around them."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".ia3_l.default"): tuple(each.shape)
        for name, each in model.named_parameters()
        if each.requires_grad
    }


def test_keys_values_and_feed_forward_get_vectors(model_folder: Path) -> None:
    model = adapted(AutoModelForCausalLM.from_pretrained(model_folder))
    # Two of four heads of 16 for keys and values; 128 numbers inside the feed-forward block.
    one = {"self_attn.k_proj": (32, 1), "self_attn.v_proj": (32, 1), "mlp.down_proj": (1, 128)}
    assert vectors(model) == {
        f"model.layers.{n}.{name}": shape for n in (0, 1) for name, shape in one.items()
    }
    assert all((p == 1).all() for p in model.parameters() if p.requires_grad)


def test_targets_by_name(model_folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    model = adapted(base, targets=["layers.1.mlp.down_proj", "o_proj"])
    assert vectors(model) == {
        "model.layers.0.self_attn.o_proj": (64, 1),
        "model.layers.1.self_attn.o_proj": (64, 1),
        "model.layers.1.mlp.down_proj": (1, 128),
    }


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_other_families(tmp_path: Path, family: str) -> None:
    head = SEQUENCE_TO_SEQUENCE if family == "t5" else CAUSAL
    base = head.loader.from_pretrained(tiny_model(tmp_path, family))
    found = {name.rpartition(".")[2] for name in vectors(adapted(base, head))}
    assert found == ({"k", "v", "wo"} if family == "t5" else {"c_attn", "c_proj"})


def unknown() -> Any:
    config = PhiConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    config.model_type = "novel"
    return PhiForCausalLM(config)


def test_an_architecture_that_peft_does_not_know() -> None:
    with pytest.raises(TrainerError, match="PEFT knows no modules to rescale in novel") as caught:
        adapted(unknown())
    assert caught.value.reason is Reason.TARGET_MODULES_NOT_FOUND
    assert "dense, fc1, fc2, k_proj, q_proj, v_proj" in caught.value.message
    assert caught.value.hint
    assert vectors(adapted(unknown(), targets=["v_proj"])) == {
        "model.layers.0.self_attn.v_proj": (16, 1)
    }
    with pytest.raises(TrainerError, match="x_proj matches no linear module"):
        adapted(unknown(), targets=["x_proj"])


def test_a_classifier_is_merged_with_its_pooler(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "bert")
    torch.manual_seed(3)
    loader = partial(AutoModelForSequenceClassification.from_pretrained, folder, num_labels=3)
    tuned = adapted(loader(), SEQUENCE_CLASSIFICATION)
    with torch.no_grad():
        for each in tuned.parameters():
            if each.requires_grad:
                each.add_(0.1)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids = torch.arange(5, 25).view(2, 10)
    merged = merge.merge(loader(), tmp_path / "adapter", "the output").eval()
    torch.testing.assert_close(merged(ids).logits, tuned.eval()(ids).logits)
    assert type(merged) is type(loader())


def test_a_run_by_its_formula(laptop: Any, model_folder: Path) -> None:
    write_jsonl(laptop.folder / "train.jsonl", pairs(64))
    report = laptop.run({
        "model.source": f"file://{model_folder}",
        "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
        "data.evaluation": {"fraction": 0.1},
        "tuning": {"type": "IA3"},
        "training": {"learningRate": 3e-2, "maxSteps": 20, "batchSize": 4},
        "output.uri": f"file://{laptop.folder}/out",
    }).report  # fmt: skip
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < 0.8 * float(report.evaluation.loss_before)
    manifest = json.loads((laptop.folder / "out" / "manifest.json").read_text())
    folder = Path(manifest["prefix"].removeprefix("file://"))
    stored = load_file(folder / "adapter_model.safetensors")
    assert len(stored) == 6

    base = AutoModelForCausalLM.from_pretrained(model_folder)
    batch = AutoTokenizer.from_pretrained(folder)("Thing 3 is red.", return_tensors="pt")
    tuned = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_folder), str(folder)
    )
    wanted = tuned.eval()(**batch).logits
    assert (wanted - base(**batch).logits).abs().max() > 0.1
    # l ⊙ (W x) for keys and values, W (l ⊙ x) for the last layer of the feed-forward block.
    with torch.no_grad():
        for key, vector in stored.items():
            name = key.removeprefix("base_model.model.").removesuffix(".ia3_l")
            base.get_submodule(name).weight *= vector
    torch.testing.assert_close(base(**batch).logits, wanted, rtol=1e-4, atol=1e-4)
    merged = merge.merge(AutoModelForCausalLM.from_pretrained(model_folder), folder, "the output")
    torch.testing.assert_close(merged(**batch).logits, wanted, rtol=1e-4, atol=1e-4)
