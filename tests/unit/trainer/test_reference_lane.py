"""Policy and reference in one pass: every number and gradient is that of two passes, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from finetune_kernels import patch
from finetune_trainer.fast import answer_head, head, recompute, reference_lane, told
from finetune_trainer.recomputation import Recomputation
from finetune_trainer.sanity import as_before_training

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
LLAMA = LlamaConfig(**SMALL, attention_dropout=0.3)
GPT2 = GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4)
QWEN3 = Qwen3Config(**SMALL)
# How a model differs from the plain one: arguments of its adapter, and what else.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"lora_dropout": 0.3},
    "padded": {"attention": "eager"},
    "kernels": {"kernels": True, "lora_dropout": 0.0},
    "every layer again": {"recomputed": 3, "lora_dropout": 0.3},
    "one layer again": {"recomputed": 1},
    "parked": {"recomputed": 3, "offload": True},
    "bfloat16": {"autocast": True},
    "trained copies": {"modules_to_save": ["embed_tokens", "norm"]},
    "trained tokens": {"trainable_token_indices": [5, 6]},
}


def batch() -> dict[str, torch.Tensor]:
    """Two pairs of answers to prompts of four tokens; each has a padded row."""
    ids = torch.randint(3, 97, (4, 12), generator=torch.Generator().manual_seed(1))
    ids[2:, :4] = ids[:2, :4]
    mask = torch.arange(12) < torch.tensor([[12], [9], [7], [12]])
    labels = ids.masked_fill(~mask, -100)
    labels[:, :4] = -100
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def made(config: Any, attention: str = "sdpa", **adapter: Any) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    add_fused_lm_head(base)
    options = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **adapter}
    net = get_peft_model(base, LoraConfig(**options))
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return net.train()


def prepared(config: Any, case: dict[str, Any]) -> Any:
    own = ("kernels", "recomputed", "offload", "autocast")
    net = made(config, **{name: value for name, value in case.items() if name not in own})
    if case.get("kernels"):
        assert patch(net, "Torch").layers
    if count := case.get("recomputed"):
        recompute.install(net, Recomputation(count, 3, offload=case.get("offload", False)))
        net.gradient_checkpointing_enable({"use_reentrant": False})
    fitted = answer_head.install(net, longest=12)
    assert fitted.packed == ("attention" not in case)
    assert answer_head.against_one_pass(net, fitted) is None
    return net


def said(net: Any, *, one_pass: bool, autocast: bool = False) -> dict[str, torch.Tensor]:
    """Log-probabilities of both, the loss of pairs, and its gradients."""
    given, found = batch(), {}
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if not one_pass:
            with as_before_training(net), torch.no_grad():
                found["reference"] = net(**given, fused_lm_head=True).log_probs
        torch.manual_seed(3)
        outputs = net(**given, fused_lm_head=True, **({"reference": True} if one_pass else {}))
    if one_pass:
        found["reference"] = outputs.reference
    ratios = (outputs.log_probs - found["reference"]).sum(1)
    found |= {"policy": outputs.log_probs.detach()}
    found["loss"] = -torch.nn.functional.logsigmoid(ratios[:2] - ratios[2:]).mean()
    found["loss"].backward()
    found |= {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {name: value.detach().clone() for name, value in found.items()}


ALSO = [
    (QWEN3, CASES["one layer again"]), (QWEN3, CASES["padded"]), (GPT2, CASES["every layer again"]),
    # Trained biases, which both use.
    (GPT2, {"autocast": True, "bias": "all"}), (GPT2, {"modules_to_save": ["wte", "ln_f"]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "case"),
    [(LLAMA, case) for case in CASES.values()] + ALSO,
    ids=[*CASES, *(f"{config.model_type} {number}" for number, (config, _) in enumerate(ALSO))],
)
def test_one_pass_says_what_two_say(config: Any, case: dict[str, Any]) -> None:
    net = prepared(config, case)
    forwards = {name: each.forward for name, each in net.named_modules()}
    autocast = bool(case.get("autocast"))
    two, one = (said(net, one_pass=each, autocast=autocast) for each in (False, True))
    assert one.keys() == two.keys()
    assert len(one) > 3 + 3
    different = [name for name in two if not torch.equal(one[name], two[name])]
    assert not different
    # The reference is another model than the policy, and its rows are in the loss as numbers.
    assert not torch.allclose(one["policy"], one["reference"], atol=1e-3)
    # Nothing is left of it: neither forwards nor modes nor switches.
    assert {name: each.forward for name, each in net.named_modules()} == forwards
    assert all(each.training for each in net.modules())
    assert not any(getattr(each, "disable_adapters", False) is True for each in net.modules())


def test_a_layer_is_gathered_once_and_the_backward_pass_does_not_run_the_lane() -> None:
    net = prepared(LLAMA, {"recomputed": 3})
    calls: list[bool] = []
    gathers: list[int] = []
    for number, layer in enumerate(head.base_of(net).model.layers):
        # Here FSDP gathers what a layer needs.
        layer.register_forward_pre_hook(lambda *_, number=number: gathers.append(number))
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    outputs = net(**batch(), fused_lm_head=True, reference=True)
    # Lane, policy, lane, policy, …: a layer's weights are used for both while they are at hand.
    assert calls == [False, True] * 3
    assert gathers == [0, 1, 2]
    outputs.log_probs.sum().backward()
    assert calls[6:] == [True] * 3


def test_the_reference_keeps_nothing_for_the_backward_pass() -> None:
    kept = {}
    for one_pass in (False, True):
        net, sizes = prepared(LLAMA, {}), []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            net(**batch(), fused_lm_head=True, **({"reference": True} if one_pass else {}))
        kept[one_pass] = sizes
    assert kept[True] == kept[False]


def test_why_two_passes_is_told(model_folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    assert reference_lane.why_not(base) == "no adapter can be switched off"
    virtual = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert reference_lane.why_not(virtual) == "the adapter lives in the prompt"
    net = made(LLAMA)
    layers = head.base_of(net).model.layers
    head.base_of(net).model.layers = torch.nn.ModuleList([torch.nn.Sequential(layers[0])])
    assert reference_lane.why_not(net) == "its layers cannot be told apart"
    note = told.reference("its layers cannot be told apart")
    assert (note.value, note.why) == (
        "asked in a pass of its own",
        "its layers cannot be told apart",
    )


def test_a_model_of_another_kind_is_tried_first() -> None:
    net = made(LLAMA)
    backbone = head.base_of(net).model
    # Something between two layers that the lane does not see.
    backbone.layers[1].register_forward_pre_hook(lambda _, given: (given[0] * 2, *given[1:]))
    assert "something changed the hidden states" in str(reference_lane.why_not(net))


def test_a_layer_that_lost_the_layout_is_told() -> None:
    net = prepared(LLAMA, {})
    head.base_of(net).config._attn_implementation = "sdpa"
    with pytest.raises(RuntimeError, match="layout"):
        net(**batch(), fused_lm_head=True, reference=True)
