"""Tiny models with our kernels in them against the same models without, in bfloat16 on the device."""

import pytest
import torch

from finetune_kernels import patch
from support.kernel_truth import error

transformers = pytest.importorskip("transformers")

WIDTH = {"hidden_size": 128, "intermediate_size": 344, "num_attention_heads": 4}
SIZES = {**WIDTH, "vocab_size": 512, "num_hidden_layers": 2, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 512, "n_embd": 128, "n_layer": 2, "n_head": 4}
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "GPT2")
TOLERANCE = 2**-8


def model_of(family: str, device: str, rehearsal: bool, adapted: bool = False) -> torch.nn.Module:
    sizes = dict(GPT2 if family == "GPT2" else SIZES)
    if rehearsal:
        sizes |= {"n_layer": 1} if family == "GPT2" else {"num_hidden_layers": 1}
    if not hasattr(transformers, f"{family}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    if adapted:
        peft = pytest.importorskip("peft")
        lora = peft.LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False)
        model = peft.get_peft_model(model, lora)
    return model.to(device, torch.bfloat16)


def step(model: torch.nn.Module, rehearsal: bool) -> tuple[torch.Tensor, dict]:
    """Logits, and gradients by name."""
    device = next(model.parameters()).device
    ids = torch.arange(2 * (8 if rehearsal else 128), device=device).view(2, -1) * 37 % 512
    model.zero_grad()
    output = model(input_ids=ids, labels=ids, use_cache=False)
    output.loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.logits.detach(), gradients


def assert_patched_is_not_worse(model: torch.nn.Module, exact: tuple, rehearsal: bool) -> None:
    theirs = step(model, rehearsal)
    patched = patch(model, "Triton")
    assert patched.layers
    got = step(model, rehearsal)
    patched.undo()
    assert error(got[0], exact[0]) <= 1.05 * error(theirs[0], exact[0]) + TOLERANCE
    assert got[1].keys() == exact[1].keys()
    for name, truth in exact[1].items():
        limit = 1.05 * error(theirs[1][name], truth) + TOLERANCE
        assert error(got[1][name], truth) <= limit, name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patched_model_is_not_worse(family, device, rehearsal) -> None:
    exact = step(model_of(family, device, rehearsal).double(), rehearsal)
    assert_patched_is_not_worse(model_of(family, device, rehearsal), exact, rehearsal)


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_a_patched_model_with_adapters_is_not_worse(family, device, rehearsal) -> None:
    exact = step(model_of(family, device, rehearsal, True).double(), rehearsal)
    assert_patched_is_not_worse(model_of(family, device, rehearsal, True), exact, rehearsal)


def test_fifty_steps_learn_as_without_kernels(device, rehearsal) -> None:
    curves = []
    for kernels in (False, True):
        model = model_of("Llama", device, rehearsal).float()
        if kernels:
            patch(model, "Triton")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        curve = []
        for _ in range(2 if rehearsal else 50):
            with torch.autocast(device, torch.bfloat16):
                ids = torch.arange(64, device=device).view(2, -1) * 37 % 512
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            curve.append(loss.item())
        curves.append(curve)
    assert all(abs(a - b) <= 0.03 * max(a, 0.1) for a, b in zip(*curves, strict=True))
