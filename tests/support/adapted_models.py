"""Small models with adapters of PEFT that say something, to be patched."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.tensor([[5, 9, 2, 41], [8, 30, 1, 60]])


def base(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
    )
    return AutoModelForCausalLM.from_config(config).to(dtype)


def adapted(model: torch.nn.Module | None = None, **options) -> torch.nn.Module:
    options = {"r": 4, "target_modules": ALL, "use_rslora": True, **options}
    tuned = get_peft_model(model or base(), LoraConfig(**options))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return tuned
