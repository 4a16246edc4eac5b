"""Forwards of the layers in the table, written with our operations; bound to instances.

Their first argument is the module, whose own weights and submodules they use. Called through
`patching.model`.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from finetune_kernels.ops.add_rms_norm import add_rms_norm
from finetune_kernels.ops.glu import gated
from finetune_kernels.ops.layer_norm import layer_norm
from finetune_kernels.ops.rms_norm import rms_norm
from finetune_kernels.patching import Foreign
from finetune_kernels.patching.rotary import plain_forward


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


def decoder_layer_forward(layer: type[nn.Module]) -> Callable[..., Foreign] | None:
    """A pre-norm layer whose first residual addition and second norm are one kernel.

    Returns:
        A forward that gives what layers of this class give: hidden states, or a tuple of them and attention
        weights, as before transformers 4.54. None where they give more, as before 4.48.
    """
    # What they return is not what they are annotated with in every version, but follows from their code.
    names = plain_forward(layer).__code__.co_varnames
    if "present_key_value" in names:
        return None
    return _layer_with_a_tuple if "outputs" in names else _layer


def _layer(module: Foreign, hidden_states: Tensor, **arguments: Foreign) -> Tensor:
    return _states_and_weights(module, hidden_states, arguments)[0]


def _layer_with_a_tuple(
    module: Foreign, hidden_states: Tensor, *positional: Foreign, **arguments: Foreign
) -> tuple[Tensor, ...]:
    if positional:  # as recomputed layers are called before transformers 4.53
        names = inspect.signature(type(module).forward).parameters
        arguments |= zip(list(names)[2:], positional, strict=False)
    outputs = _states_and_weights(module, hidden_states, arguments)
    return outputs if arguments.get("output_attentions") else outputs[:1]


def _states_and_weights(
    module: Foreign, hidden_states: Tensor, arguments: dict[str, Foreign]
) -> tuple[Tensor, Tensor]:
    normalised = module.input_layernorm(hidden_states)
    attended, weights = module.self_attn(hidden_states=normalised, **arguments)
    normalised, total = _add_and_normalise(module.post_attention_layernorm, attended, hidden_states)
    return total + module.mlp(normalised), weights


def _add_and_normalise(norm: Foreign, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    # ZeRO-3 gathers a weight only while its own module is called, and autocast mixes dtypes.
    if norm.weight.shape != x.shape[-1:] or x.dtype != residual.dtype:
        total = residual + x
        return norm(total), total
    return add_rms_norm(x, residual, norm.weight, norm.variance_epsilon)
