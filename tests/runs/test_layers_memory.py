"""What layers keep and what a step takes, of each family and kind of adapter: planned against measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from finetune_trainer import heads, memory, resolve
from finetune_trainer import model as models
from finetune_trainer.fast import recompute
from finetune_trainer.layer_shape import Pass
from finetune_trainer.recomputation import LayerMemory, Recomputation
from finetune_trainer.tuning.apply import apply
from support import measured_memory
from support.jobs import manifest
from support.tiny_models import tiny_model

LAYERS, TOKENS, ROWS, HIDDEN = 3, 48, 2, 128
TUNINGS: dict[str, dict[str, Any]] = {
    "Full": {"type": "Full"},
    "LoRA": {"type": "LoRA", "lora": {"rank": 4}},
    "DoRA": {"type": "LoRA", "lora": {"rank": 4, "variant": "DoRA"}},
    "AdaLoRA": {"type": "AdaLoRA"},
    "IA3": {"type": "IA3"},
}
TASKS = {"t5": "text2text-generation", "bert": "text-classification"}
CASES = [
    ("llama", "DoRA", "BFloat16"), ("llama", "AdaLoRA", "Float32"), ("llama", "IA3", "BFloat16"),
    ("gpt2", "Full", "BFloat16"), ("gpt2", "DoRA", "Float32"),
    ("t5", "Full", "Float32"), ("t5", "Full", "BFloat16"), ("t5", "LoRA", "BFloat16"),
    ("t5", "IA3", "Float32"), ("bert", "Full", "BFloat16"), ("bert", "LoRA", "BFloat16"),
    ("mixtral", "Full", "Float32"), ("mixtral", "LoRA", "BFloat16"),
    ("qwen3_moe", "Full", "BFloat16"), ("qwen3_moe", "LoRA", "Float32"),
]  # fmt: skip


def folder_of(root: Path, family: str) -> Path:
    common = {
        "vocab_size": 100,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts_per_tok": 2,
    }
    if family == "mixtral":
        config = MixtralConfig(**common, intermediate_size=2 * HIDDEN, num_local_experts=4)
        MixtralForCausalLM(config).save_pretrained(root)
    elif family == "qwen3_moe":
        own = {"moe_intermediate_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_experts": 8}
        Qwen3MoeForCausalLM(Qwen3MoeConfig(**common, **own, head_dim=32)).save_pretrained(root)
    else:
        tiny_model(root, family, layers=LAYERS, hidden=HIDDEN)
    return root


def given(family: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 90, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1]) if family == "bert" else ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.mark.parametrize(("family", "tuning", "precision"), CASES)
def test_no_family_takes_more_than_was_planned(
    tmp_path: Path, family: str, tuning: str, precision: str
) -> None:
    changes = {
        "resources.gpusPerNode": 0,
        "model.task": TASKS.get(family, "text-generation"),
        "tuning": TUNINGS[tuning],
        "training": {"batchSize": ROWS, "microBatchSize": ROWS, "precision": precision},
    }
    spec = resolve.FineTuneJobSpec.model_validate(manifest("demo", changes)["spec"])
    settings, _ = resolve.resolve(spec, resolve.Machine("cpu"), 100, TOKENS)
    head, half = heads.OF_TASK[spec.model.task], precision == "BFloat16"
    config = AutoConfig.from_pretrained(folder_of(tmp_path, family))
    torch.manual_seed(0)
    base = head.loader.from_pretrained(tmp_path, dtype=models.DTYPES[settings.weights])
    net = apply(base, spec.tuning, "base", head, checkpointing=True).train()
    with models.on_meta():
        base = models.outline(config, head)
        outline = apply(base, spec.tuning, "base", head, checkpointing=False)
    largest, count = Pass(ROWS * TOKENS, chunked=False), len(recompute.layers_of(net))
    layers = memory.of_layers(outline, config, spec, settings, largest)
    assert layers.layers == count

    def loss() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return net(**given(family)).loss

    def saved() -> int:
        with measured_memory.saved(net) as total:
            result = loss()
        del result
        return total[0]

    whole = saved()
    recompute.install(net, Recomputation(count, count))
    net.activation_checkpointing_enable({"use_reentrant": False})
    kept = whole - saved() + count * layers.block_input
    # Casts are counted among the weights; of experts there are none.
    inside = [p for each in recompute.layers_of(outline) for p in each.parameters() if p.dim() == 2]
    kept -= 2 * sum(p.numel() for p in inside) if half and tuning == "Full" else 0
    assert kept <= _kept(layers) <= 1.3 * kept
    chosen = replace(settings, gradient_checkpointing=True)
    planned = memory.estimate(outline, config, spec, chosen, largest)
    loss().backward()
    found = measured_memory.peak(lambda: loss().backward())
    room = planned.activations + planned.logits + memory.casts(outline, settings)
    assert found <= room <= 1.7 * found


def _kept(layers: LayerMemory) -> int:
    return layers.light * layers.kept_light + (layers.layers - layers.light) * layers.kept
