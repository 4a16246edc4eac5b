"""Models of real shapes with random weights, frozen, with LoRA on every linear layer of the blocks."""

from typing import Any

import torch
from torch import nn

from finetune_kernels.patching import Foreign

WORDS = {"vocab_size": 128256, "rope_theta": 500000.0, "max_position_embeddings": 131072}
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "1B": {
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
        **{**WORDS, **HEADS, "tie_word_embeddings": True},
    },
    "8B": {
        **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
        **{**WORDS, **HEADS, "tie_word_embeddings": False},
    },
    "rehearsal": {
        **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 96},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
    },
}
RANK = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapted_model(shape: str, four_bits: bool, attention: str, device: str) -> nn.Module:
    """A PEFT model in bfloat16 that recomputes activations, in training mode."""
    import peft
    from transformers import LlamaConfig

    model = random_model(LlamaConfig(**SHAPES[shape], use_cache=False), attention, device)
    if four_bits:
        _quantise(model, device)
    lora = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS))
    adapted = peft.get_peft_model(model, lora)
    # Adapters in the model's dtype, for every contestant alike; peft keeps them in float32.
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return adapted.train()


def random_model(config: Foreign, attention: str, device: str) -> Foreign:
    """A causal language model made in bfloat16: in float32 it would not fit."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    finally:
        torch.set_default_dtype(before)


def _quantise(model: nn.Module, device: str) -> None:
    """Linear layers of the blocks in NF4 with double quantisation, one by one."""
    import bitsandbytes as bnb

    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if name not in TARGETS:
                continue
            quantised = bnb.nn.Linear4bit(
                *(layer.in_features, layer.out_features),
                bias=False,
                compute_dtype=torch.bfloat16,
                compress_statistics=True,
                quant_type="nf4",
                device="meta",
            )
            quantised.weight = bnb.nn.Params4bit(
                layer.weight.data.cpu(), requires_grad=False, quant_type="nf4"
            ).to(device)
            setattr(module, name, quantised)
    # What peft asks before it takes its layers for 4-bit weights.
    model.is_loaded_in_4bit = True  # type: ignore[assignment]
