from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import adapters
from finetune_trainer.errors import TrainerError

LEAVES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture
def llama(model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_folder)


def apply(model: Any, checkpointing: bool = False, **lora: object) -> Any:
    tuning = Tuning.model_validate({"type": "LoRA", "lora": lora})
    return adapters.apply(model, tuning, "s3://b/base", checkpointing=checkpointing)


def adapted(model: Any) -> set[str]:
    """Modules that have a trainable A."""
    trainable = {name for name, each in model.named_parameters() if each.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable)
    inner = {name.removeprefix("base_model.model.").split(".lora_A.")[0] for name in trainable}
    return {name for name in inner if ".lora_B." not in name}


def test_all_linear_is_all_but_the_head(llama: Any) -> None:
    linear = set(adapters.linear_modules(llama))
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
    assert adapters.choose_targets(model, ["all-linear"]) == ["c_attn", "c_fc", "c_proj"]
    linear = set(adapters.linear_modules(model))
    assert adapted(apply(model)) == linear


@pytest.mark.parametrize(
    ("targets", "modules"),
    [
        (["q_proj", "v_proj"], {f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qv"}),
        (["layers.1.mlp.up_proj"], {"model.layers.1.mlp.up_proj"}),
        (["model.layers.0.self_attn.*"], {f"model.layers.0.self_attn.{p}_proj" for p in "qkvo"}),
    ],
)  # fmt: skip
def test_targets_by_name(llama: Any, targets: list[str], modules: set[str]) -> None:
    assert adapted(apply(llama, targets=targets, rank=4, alpha=8, dropout=0.1)) == modules


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
    model = adapters.apply(llama, tuning, "s3://b/base", checkpointing=False)
    trainable, total = adapters.count_parameters(model)
    assert trainable == total == sum(each.numel() for each in llama.parameters())
