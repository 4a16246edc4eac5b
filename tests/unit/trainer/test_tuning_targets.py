from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import merge, save
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import CAUSAL, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Head
from finetune_trainer.tuning import apply as tunings
from finetune_trainer.tuning import targets

LEAVES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture
def llama(model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_folder)


def apply(model: Any, head: Head = CAUSAL, **lora: object) -> Any:
    tuning = Tuning.model_validate({"type": "LoRA", "lora": lora})
    return tunings.apply(model, tuning, "s3://b/base", head, checkpointing=False)


def adapted(model: Any) -> set[str]:
    """Modules that have a trainable A."""
    trainable = {name for name, each in model.named_parameters() if each.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable)
    inner = {name.removeprefix("base_model.model.").split(".lora_A.")[0] for name in trainable}
    return {name for name in inner if ".lora_B." not in name}


def test_all_linear_is_all_but_the_head(llama: Any) -> None:
    linear = set(targets.linear_modules(llama, CAUSAL))
    assert len(linear) == 14
    model = apply(llama)
    assert adapted(model) == linear
    assert "lm_head" not in linear
    config = model.peft_config["default"]
    assert sorted(config.target_modules) == LEAVES
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0)
    assert config.base_model_name_or_path == "s3://b/base"


def test_gpt2_has_linear_modules_of_its_own_kind() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))
    chosen = targets.choose_targets(model, ["all-linear"], CAUSAL, field="tuning.lora.targets")
    assert chosen == ["c_attn", "c_fc", "c_proj"]
    linear = set(targets.linear_modules(model, CAUSAL))
    assert adapted(apply(model)) == linear


@pytest.mark.parametrize(
    ("names", "modules"),
    [
        (["q_proj", "v_proj"], {f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qv"}),
        (["layers.1.mlp.up_proj"], {"model.layers.1.mlp.up_proj"}),
        (["model.layers.0.self_attn.*"], {f"model.layers.0.self_attn.{p}_proj" for p in "qkvo"}),
    ],
)  # fmt: skip
def test_targets_by_name(llama: Any, names: list[str], modules: set[str]) -> None:
    assert adapted(apply(llama, targets=names, rank=4, alpha=8, dropout=0.1)) == modules


@pytest.mark.parametrize("target", ["query", "lm_head", "proj", "embed_tokens", "x*"])
def test_target_that_matches_nothing(llama: Any, target: str) -> None:
    with pytest.raises(TrainerError) as caught:
        apply(llama, targets=["q_proj", target])
    assert caught.value.reason is Reason.TARGET_MODULES_NOT_FOUND
    assert (
        f"{target} matches no linear module; there are {', '.join(LEAVES)}" in caught.value.message
    )


def test_all_linear_stands_alone(llama: Any) -> None:
    with pytest.raises(TrainerError, match="stands alone"):
        apply(llama, targets=["all-linear", "q_proj"])


def test_full_tuning_trains_every_tensor(llama: Any) -> None:
    tuning = Tuning.model_validate({"type": "Full"})
    model = tunings.apply(llama, tuning, "s3://b/base", CAUSAL, checkpointing=False)
    trainable, total = targets.count_parameters(model)
    assert trainable == total == sum(each.numel() for each in llama.parameters())


BERT = BertConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_labels=3,
)


@pytest.mark.parametrize(
    ("kind", "head", "whole"),
    [
        (BertForSequenceClassification, SEQUENCE_CLASSIFICATION, {"classifier", "pooler"}),
        (BertForTokenClassification, TOKEN_CLASSIFICATION, {"classifier"}),
    ],
)
def test_a_classifier_is_trained_whole_and_comes_back(
    kind: Any, head: Head, whole: set[str], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    base = kind(BERT)
    base.save_pretrained(tmp_path / "base")
    model = apply(base, head)
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    others = {name for name in trainable if ".lora_" not in name}
    assert {name.split(".modules_to_save.")[0].rpartition(".")[2] for name in others} == whole
    # Six linear modules a layer, A and B each; none of them is within the head.
    assert len(trainable) - len(others) == 2 * 2 * 6
    with torch.no_grad():
        for each in trainable.values():
            each.normal_(std=0.1)
    save.save_adapter(model.eval(), tmp_path / "adapter")
    fresh = kind.from_pretrained(tmp_path / "base")
    reopened = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    inputs = {"input_ids": torch.arange(24).reshape(2, 12)}
    assert torch.allclose(model(**inputs).logits, reopened(**inputs).logits, atol=1e-6)
    assert not torch.allclose(
        model(**inputs).logits, kind.from_pretrained(tmp_path / "base")(**inputs).logits, atol=1e-2
    )


@pytest.mark.parametrize("kind", ["LoRA", "IA3"])
def test_a_classifier_of_several_layers_is_merged_whole(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    BertForSequenceClassification(BERT).save_pretrained(tmp_path / "base")
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    tuning = Tuning.model_validate({"type": kind})
    model = tunings.apply(base, tuning, "s3://b/base", SEQUENCE_CLASSIFICATION, checkpointing=False)
    with torch.no_grad():
        for each in model.parameters():
            if each.requires_grad:
                each.add_(torch.randn_like(each) * 0.1)
    save.save_adapter(model.eval(), tmp_path / "adapter")
    fresh = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    merged = merge.merge(fresh, tmp_path / "adapter", "u").eval()
    assert not [n for n, _ in merged.named_parameters() if "modules_to_save" in n]
    inputs = {"input_ids": torch.arange(24).reshape(2, 12)}
    assert torch.allclose(model(**inputs).logits, merged(**inputs).logits, atol=1e-5)
