"""Layers that compute their activations again: what that saves, and that nothing else changes."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from trl.models.utils import disable_gradient_checkpointing

from finetune_kernels import patch
from finetune_trainer import heads, memory, resolve
from finetune_trainer import model as models
from finetune_trainer.batches import Collator
from finetune_trainer.data.rows import PreferenceRow, TokenRow
from finetune_trainer.fast import head, loss, prefix_attention, recompute
from finetune_trainer.fast.flat import FlatCollator
from finetune_trainer.fast.offload import BUFFERS, BlockInputs, Parked
from finetune_trainer.layer_shape import Pass
from finetune_trainer.recipes import passes
from finetune_trainer.recomputation import Recomputation
from finetune_trainer.tuning.apply import apply
from support import measured_memory
from support.jobs import manifest
from support.tiny_models import tiny_model

LAYERS, TOKENS = 3, 48


def job(tuning: str, precision: str = "Float32") -> tuple[Any, resolve.Settings]:
    changes = {
        "resources.gpusPerNode": 0,
        "tuning": TUNINGS[tuning],
        "training": {"batchSize": 2, "microBatchSize": 2, "precision": precision},
    }
    spec = resolve.FineTuneJobSpec.model_validate(manifest("demo", changes)["spec"])
    return spec, resolve.resolve(spec, resolve.Machine("cpu"), 100, TOKENS)[0]


TUNINGS: dict[str, dict[str, Any]] = {
    "Full": {"type": "Full"},
    "LoRA": {"type": "LoRA", "lora": {"rank": 4}},
    "dropout": {"type": "LoRA", "lora": {"rank": 4, "dropout": 0.1}},
    "QLoRA": {"type": "QLoRA", "lora": {"rank": 4}, "quantization": {"type": "NF4"}},
}


def trained(
    folder: Path,
    tuning: str,
    recomputed: int,
    precision: str = "Float32",
    *,
    fast: bool = False,
    offload: bool = False,
) -> Any:
    """A model in training, of which so many layers compute their activations again."""
    torch.manual_seed(0)
    spec, settings = job(tuning, precision)
    options: dict[str, Any] = {"dtype": models.DTYPES[settings.weights]}
    if spec.tuning.quantization:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    base = AutoModelForCausalLM.from_pretrained(folder, **options)
    net = apply(base, spec.tuning, "base", heads.CAUSAL, checkpointing=True)
    head.install(net)
    if fast:
        patch(net, "Torch")
        prefix_attention.install(head.base_of(net))
    recompute.install(net, Recomputation(recomputed, LAYERS, offload=offload))
    net.activation_checkpointing_enable({"use_reentrant": False})
    return net.train()


def batch(*, flat: bool) -> Any:
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 90, (TOKENS,), generator=draw).tolist() for _ in range(2)]
    examples = [{"input_ids": row, "labels": row} for row in rows]
    return (FlatCollator if flat else Collator)(0)(examples)


def saved(net: Any, given: Any, *, half: bool = False) -> int:
    with measured_memory.saved(net) as total, torch.autocast("cpu", torch.bfloat16, enabled=half):
        result = net(**given, read=loss.summed_loss)
    del result
    return total[0]


def peak(net: Any, given: Any, *, half: bool) -> int:
    """Bytes of a step at its peak, gradients from before aside."""

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            result = net(**given, read=loss.summed_loss).loss
        result.backward()

    return measured_memory.peak(step)


@pytest.mark.parametrize("precision", ["Float32", "BFloat16"])
@pytest.mark.parametrize(
    ("family", "tuning", "fast"),
    [("llama", "LoRA", True), ("qwen3", "Full", False), ("gpt2", "LoRA", True)],
)
def test_a_step_takes_no_more_than_was_planned(
    tmp_path: Path, family: str, tuning: str, fast: bool, precision: str
) -> None:
    folder = tiny_model(tmp_path, family, layers=LAYERS, hidden=128)
    (spec, settings), config = job(tuning, precision), AutoConfig.from_pretrained(folder)
    outline = outlined(config, spec)
    blocks = patch(outline, "Torch").layers.get("LoraMLP", 0) == LAYERS
    assert blocks == (family == "llama")
    largest = Pass(2 * TOKENS, chunked=True, flat=fast, lora_blocks=blocks)
    half = precision == "BFloat16"
    for recomputed in (1, LAYERS):
        plan_ = Recomputation(recomputed, LAYERS)
        chosen = replace(settings, gradient_checkpointing=recomputed > 0, recomputation=plan_)
        planned = memory.estimate(outline, config, spec, chosen, largest)
        net, given = trained(folder, tuning, recomputed, precision, fast=fast), batch(flat=fast)
        net(**given, read=loss.summed_loss).loss.backward()
        found = peak(net, given, half=half)
        casts = planned.gradients // 2 if half else 0
        room = planned.activations + planned.logits + casts
        assert found <= room <= 1.7 * found


def outlined(config: Any, spec: Any) -> Any:
    with models.on_meta():
        base = models.outline(config, heads.CAUSAL)
        return apply(base, spec.tuning, "base", heads.CAUSAL, checkpointing=False)


@pytest.mark.parametrize(
    ("method", "virtual", "tokens", "flat"),
    [
        # The two longest of 9, 5 and 7 tokens; with virtual tokens, two of the longest with 20 before each.
        ("SFT", False, 16, True),
        ("SFT", True, 2 * (9 + 20), False),
        # A prompt of 4 with answers of 5 and 1, and one of 4 with answers of 1 and 3.
        ("DPO", False, 10 + 8, True),
        ("Reward", False, 4 * 9, False),
    ],
)
def test_tokens_of_the_largest_pass(
    tmp_path: Path, method: str, virtual: bool, tokens: int, flat: bool
) -> None:
    spec, settings = job("LoRA")
    changes = {"method.type": method, "tuning.type": "PromptTuning" if virtual else "LoRA"}
    spec = resolve.FineTuneJobSpec.model_validate(
        manifest("demo", {"resources.gpusPerNode": 0, **changes})["spec"]
    )
    config = AutoConfig.from_pretrained(tiny_model(tmp_path))
    ids = list(range(9))
    rows: list[Any] = [TokenRow(ids[:n], ids[:n], "") for n in (9, 5, 7)]
    if method != "SFT":
        answers = [(5, 1), (1, 3), (1, 1)]
        rows = [PreferenceRow(ids[:4], ids[:a], ids[:b], "") for a, b in answers]
    ready: Any = SimpleNamespace(
        spec=spec,
        settings=replace(settings, max_length=9),
        data=SimpleNamespace(train=rows, packed=None, stream=None),
    )
    found = passes.foreseen(ready, outlined(config, spec))
    assert (found.tokens, found.flat) == (tokens, flat)
    assert found.lora_blocks != virtual


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("family", "tuning"),
    [("llama", "LoRA"), ("mistral", "QLoRA"), ("qwen3", "Full"), ("gpt2", "dropout")],
)
def test_gradients_are_the_same_to_the_bit(
    tmp_path: Path, family: str, tuning: str, fast: bool
) -> None:
    folder = tiny_model(tmp_path, family, layers=LAYERS)

    def gradients(recomputed: int, *, offload: bool = False) -> dict[str, torch.Tensor]:
        net = trained(folder, tuning, recomputed, fast=fast, offload=offload)
        # As where gradients are accumulated, and where one loss has two passes.
        net(**batch(flat=fast), read=loss.summed_loss).loss.backward()
        both = [net(**batch(flat=fast), read=loss.summed_loss).loss for _ in range(2)]
        (both[0] + 2 * both[1]).backward()
        return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}

    plain = gradients(0)
    assert plain
    for recomputed, offload in ((1, False), (LAYERS, False), (LAYERS, True)):
        found = gradients(recomputed, offload=offload)
        assert found.keys() == plain.keys()
        assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("family", "tuning", "precision"),
    [
        ("llama", "LoRA", "Float32"),
        ("llama", "dropout", "BFloat16"),
        ("qwen3", "LoRA", "BFloat16"),
        ("qwen3", "Full", "Float32"),
        ("gpt2", "dropout", "Float32"),
        ("gpt2", "Full", "BFloat16"),
    ],
)
def test_bytes_that_are_kept_fall_as_the_plan_says(
    tmp_path: Path, family: str, tuning: str, precision: str
) -> None:
    folder = tiny_model(tmp_path, family, layers=LAYERS, hidden=128)
    (spec, settings), config = job(tuning, precision), AutoConfig.from_pretrained(folder)
    outline = outlined(config, spec)
    planned = memory.of_layers(outline, config, spec, settings)
    half = precision == "BFloat16"
    found = []
    for recomputed in range(LAYERS + 1):
        net = trained(folder, tuning, recomputed, precision)
        found.append(saved(net, batch(flat=False), half=half))
    # Each layer more saves the same, and leaves its input; with the last go rotary embeddings of all.
    steps = [before - after for before, after in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * LAYERS, rel=0.05)
    assert steps[1] == pytest.approx(steps[0], rel=1e-3)
    kept = steps[0] + planned.block_input
    # With whole tuning, autocast's copies of weights are counted among the weights.
    inside = [p for n, p in outline.named_parameters() if ".layers.0." in n or ".h.0." in n]
    if half and tuning == "Full":
        kept -= 2 * sum(each.numel() for each in inside if each.dim() > 1)
    # Never less than is kept, and not a third as much again.
    assert kept <= planned.kept <= 1.3 * kept
    # What is left are the inputs, the last norm and the loss.
    inputs = LAYERS * planned.block_input
    # The gradient of hidden states waits in float32; logits do not wait at all.
    logits = (14 if half else 12) * 2 * TOKENS * config.vocab_size
    assert inputs < found[LAYERS] <= inputs + planned.loss - logits


def test_inputs_of_layers_wait_elsewhere_until_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parked: list[Parked] = []
    park = BlockInputs._park
    monkeypatch.setattr(
        BlockInputs,
        "_park",
        lambda self, tensor: parked.append(found := park(self, tensor)) or found,
    )
    net = trained(tiny_model(tmp_path, layers=LAYERS), "LoRA", LAYERS, offload=True)
    result = net(**batch(flat=False), read=loss.summed_loss).loss
    # One tensor a layer, of (rows, tokens, hidden size); only the last two are still on the device.
    assert [tuple(each.host.shape) for each in parked] == [(2, TOKENS, 64)] * LAYERS
    assert [each.present is not None for each in parked] == [False] + [True] * BUFFERS
    assert [each.before for each in parked] == [None, *parked[:-1]]
    hidden = parked[0].host.clone()
    result.backward()
    assert all(each.present is None for each in parked)
    assert torch.equal(parked[0].host, hidden)


def test_a_model_keeps_to_its_plan_until_that_is_removed(tmp_path: Path) -> None:
    net = trained(tiny_model(tmp_path, layers=LAYERS), "LoRA", 2)

    def on() -> list[bool]:
        return [layer.gradient_checkpointing for layer in recompute.layers_of(net)]

    assert on() == [True, True, False]
    # As TRL does around passes of the reference.
    with disable_gradient_checkpointing(net, {"use_reentrant": False}):
        assert on() == [False] * LAYERS
    assert on() == [True, True, False]
    other = trained(tiny_model(tmp_path, layers=LAYERS), "LoRA", LAYERS)
    assert [layer.gradient_checkpointing for layer in recompute.layers_of(other)] == [True] * LAYERS
    recompute.remove(net)
    net.activation_checkpointing_enable({"use_reentrant": False})
    assert on() == [True] * LAYERS
    with pytest.raises(ValueError, match="a plan for 4 layers, but there are 3"):
        recompute.install(net, Recomputation(2, 4))
