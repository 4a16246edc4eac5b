"""Forwards of the layers in the table, written with our operations; bound to instances.

Their first argument is the module, whose own weights and submodules they use. Called through
`patching.model`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from finetune_kernels.ops.add_rms_norm import add_rms_norm
from finetune_kernels.ops.glu import gated
from finetune_kernels.ops.layer_norm import layer_norm
from finetune_kernels.ops.rms_norm import rms_norm
from finetune_kernels.patching import Foreign


def rms_norm_forward(module: Foreign, hidden_states: Tensor) -> Tensor:
    """The norm of LLaMA and its kin."""
    return rms_norm(hidden_states, module.weight, module.variance_epsilon)


def layer_norm_forward(module: Foreign, x: Tensor) -> Tensor:
    """`torch.nn.LayerNorm` over one dimension, with weight and bias."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.float()  # autocast computes and returns layer norms in float32
    return layer_norm(x, module.weight, module.bias, module.eps)


def silu_mlp_forward(module: Foreign, x: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x))."""
    return _gated_mlp(module, x, "silu")


def gelu_mlp_forward(module: Foreign, x: Tensor) -> Tensor:
    """down(gelu(gate(x)) * up(x)), exact."""
    return _gated_mlp(module, x, "gelu")


def gelu_tanh_mlp_forward(module: Foreign, x: Tensor) -> Tensor:
    """down(gelu(gate(x)) * up(x)), with the tanh approximation."""
    return _gated_mlp(module, x, "gelu_tanh")


def _gated_mlp(module: Foreign, x: Tensor, activation: str) -> Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)
    # The products of two linear layers are read by nobody else in the backward pass, so the gradients
    # may lie where they were. torch.compile plans its own memory.
    overwrite = not torch.compiler.is_compiling()
    down: Tensor = module.down_proj(gated(gate, up, activation, overwrite=overwrite))
    return down


MLP_FORWARDS: dict[str, Callable[..., Tensor]] = {
    "silu": silu_mlp_forward,
    "gelu": gelu_mlp_forward,
    "gelu_tanh": gelu_tanh_mlp_forward,
}


def decoder_layer_forward(module: Foreign, hidden_states: Tensor, **arguments: Foreign) -> Tensor:
    """A pre-norm layer whose first residual addition and second norm are one kernel."""
    normalised = module.input_layernorm(hidden_states)
    attended, _ = module.self_attn(hidden_states=normalised, **arguments)
    normalised, total = _add_and_normalise(module.post_attention_layernorm, attended, hidden_states)
    updated: Tensor = total + module.mlp(normalised)
    return updated


def _add_and_normalise(norm: Foreign, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    # ZeRO-3 gathers a weight only while its own module is called, and autocast mixes dtypes.
    if norm.weight.shape != x.shape[-1:] or x.dtype != residual.dtype:
        total = residual + x
        return norm(total), total
    return add_rms_norm(x, residual, norm.weight, norm.variance_epsilon)


def returns_a_tensor(layer: type[nn.Module]) -> bool:
    """Whether layers of this version of transformers return hidden states alone, and no tuple."""
    return layer.forward.__annotations__.get("return") is Tensor
