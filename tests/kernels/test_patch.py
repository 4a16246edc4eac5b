"""Models of transformers with our layers in them, against the same models without."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from finetune_kernels import patch
from finetune_kernels.patching.forwards import decoder_layer_forward
from support.kernel_truth import error

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
LIKE_LLAMA = {"RMSNorm": 3, "AddRMSNorm": 1, "RoPE": 1, "SwiGLU": 1}
MODELS = {
    "llama": (LlamaConfig(**SIZES), LIKE_LLAMA),
    "mistral": (MistralConfig(**SIZES, sliding_window=4), LIKE_LLAMA),
    "qwen2": (Qwen2Config(**SIZES), LIKE_LLAMA),
    # Queries and keys have norms of their own.
    "qwen3": (Qwen3Config(**SIZES), {**LIKE_LLAMA, "RMSNorm": 5}),
    "gemma": (GemmaConfig(**SIZES), {"RoPE": 1, "GeGLU": 1}),
    "gpt2": (
        GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0),
        {"LayerNorm": 3},
    ),
}
IDS = torch.tensor([[5, 9, 2, 41], [8, 30, 1, 60]])


def model_of(name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MODELS[name][0]).to(dtype).eval()


def step(model: torch.nn.Module, **inputs: torch.Tensor) -> tuple[torch.Tensor, dict]:
    model.zero_grad()
    output = model(input_ids=IDS, labels=IDS, use_cache=False, **inputs)
    output.loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.logits.detach(), gradients


def assert_close(got: tuple, want: tuple, limit: float) -> None:
    assert error(got[0], want[0].double()) < limit
    assert got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        assert error(got[1][name], gradient.double()) < limit, name


@pytest.mark.parametrize("name", MODELS)
def test_a_patched_model_computes_the_same_and_is_put_back(name) -> None:
    model, other = model_of(name), model_of(name)
    before, names = step(model), list(model.state_dict())
    patched = patch(model, "Triton")
    assert dict(patched.layers) == MODELS[name][1]
    assert_close(step(model), before, 1e-5)
    assert list(model.state_dict()) == names
    assert not any("forward" in m.__dict__ for m in other.modules())
    patched.undo()
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_checkpointed_layers_give_the_same_gradients() -> None:
    model = model_of("llama")
    before = step(model)
    patch(model, "Triton")
    model.gradient_checkpointing_enable()
    assert_close(step(model.train()), before, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_not_worse_than_unpatched(dtype) -> None:
    exact = step(model_of("qwen3", dtype).double())
    model = model_of("qwen3", dtype)
    theirs = step(model)
    patch(model, "Triton")
    got, unit = step(model), torch.finfo(dtype).eps
    assert error(got[0], exact[0]) <= 1.05 * error(theirs[0], exact[0]) + unit
    for name, truth in exact[1].items():
        limit = 1.05 * error(theirs[1][name], truth) + unit
        assert error(got[1][name], truth) <= limit, name


def test_autocast_gives_the_same_dtypes_and_values() -> None:
    for name in ("llama", "gpt2"):
        model = model_of(name)
        with torch.autocast("cpu", torch.bfloat16):
            theirs = step(model)
            patch(model, "Triton")
            got = step(model)
        assert got[0].dtype == theirs[0].dtype
        assert_close(got, theirs, 0.03)


def test_packed_rows_keep_their_positions() -> None:
    model = model_of("llama")
    positions = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])
    before = step(model, position_ids=positions)
    patch(model, "Triton")
    assert_close(step(model, position_ids=positions), before, 1e-5)


def test_generation_with_a_cache_gives_the_same_words() -> None:
    model = model_of("llama")
    before = model.generate(IDS, max_new_tokens=2, do_sample=False)
    patch(model, "Triton")
    assert torch.equal(model.generate(IDS, max_new_tokens=2, do_sample=False), before)


def test_a_copy_is_bound_to_its_own_weights() -> None:
    model = model_of("llama")
    patch(model, "Triton")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_close(step(twin), step(model_of("llama")), 1e-5)


def test_the_compiler_sees_our_operations() -> None:
    model = model_of("llama")
    before = step(model)
    patch(model, "Triton")
    torch._dynamo.reset()
    seen: list[str] = []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(model.model, backend=backend, fullgraph=True)
    got = compiled(input_ids=IDS, use_cache=False).last_hidden_state
    assert error(model.lm_head(got).detach(), before[0].double()) < 1e-5
    for operation in ("rms_norm", "add_rms_norm", "rope", "glu"):
        assert f"finetune.{operation}" in {name.removesuffix(".default") for name in seen}


def test_what_is_not_known_is_left_alone_and_named() -> None:
    left = patch(model_of("gemma"), "Triton").left
    assert left == {"GemmaRMSNorm": "not in the table of layers"}
    partial = LlamaConfig(**SIZES, partial_rotary_factor=0.5)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    for layer in model.model.layers:
        layer.self_attn.config = partial
    patched = patch(model, "Triton")
    assert "RoPE" not in patched.layers
    assert patched.left == {"LlamaAttention": "rotates a part of each head only"}


def test_layers_give_what_their_class_gives() -> None:
    layer = model_of("llama").model.layers[0]
    layer.self_attn.config._attn_implementation = "eager"  # which gives its weights
    states = torch.randn(1, 4, 32)
    places = tuple(torch.randn(1, 4, 8) for _ in range(2))
    inputs = {"position_embeddings": places, "attention_mask": None}
    want = LlamaDecoderLayer.forward(layer, states, **inputs)
    want = want[0] if isinstance(want, tuple) else want

    class Before454(torch.nn.Module):
        def forward(self, hidden_states, **arguments):
            outputs = (hidden_states,)
            return outputs  # noqa: RET504 - the name is what they are known by

    class Before448(torch.nn.Module):
        def forward(self, hidden_states, **arguments):
            hidden_states, weights, present_key_value = self.self_attn(hidden_states)
            return hidden_states, weights, present_key_value

    forward = decoder_layer_forward(Before454)
    (got,) = forward(layer, states, **inputs)
    torch.testing.assert_close(got, want)
    got, weights = forward(layer, states, **inputs, output_attentions=True)
    torch.testing.assert_close(got, want)
    assert weights.shape == (1, 4, 4, 4)
    assert decoder_layer_forward(Before448) is None


def test_a_module_that_somebody_patched_is_left_alone() -> None:
    model = model_of("llama")
    model.model.norm.forward = lambda x: x
    patched = patch(model, "Triton")
    assert patched.layers["RMSNorm"] == 2
    assert patched.left == {"LlamaRMSNorm": "its forward was replaced by somebody else"}
    patched.undo()
    assert "forward" in model.model.norm.__dict__


def test_triton_on_a_device_without_kernels_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("finetune_kernels.patching.model.kernels_run_on", lambda x: False)
    with pytest.raises(ValueError, match=r"need a GPU, and model.embed_tokens.weight is on cpu"):
        patch(model_of("llama"), "Triton")


def test_plain_pytorch_leaves_these_layers_alone() -> None:
    assert not patch(model_of("llama"), "Torch").layers
