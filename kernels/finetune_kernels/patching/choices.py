"""Choose for one module: which forward it gets and what that counts as, or why it is left alone.

Two sources: the table of classes of transformers (`patching.architectures`), and adapters of PEFT. With
`Torch` only adapted layers change: they gain without a kernel (docs/guides/kernels.md has the figures).
Called by `patching.model`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from finetune_kernels.ops.rows import MAX_COLUMNS
from finetune_kernels.patching import Foreign, adapted
from finetune_kernels.patching.architectures import GATES, is_a, is_familiar
from finetune_kernels.patching.forwards import (
    MLP_FORWARDS,
    decoder_layer_forward,
    layer_norm_forward,
    rms_norm_forward,
)
from finetune_kernels.patching.lora import is_adapted, why_not
from finetune_kernels.patching.replacement import replaced_already
from finetune_kernels.patching.rotary import plain_forward, rotary_forward, rotates

Kernels = Literal["Triton", "Torch"]


@dataclass(frozen=True)
class Change:
    """What a module's forward becomes, and the operations in it."""

    operations: tuple[str, ...]
    forward: Callable[..., Foreign]


@dataclass(frozen=True)
class Left:
    """A layer that is left alone, and why."""

    what: str
    why: str


Choice = Change | Left | None


def choose(module: nn.Module, kernels: Kernels) -> Choice:
    """What to do with this module; nothing if it is not of a kind that has an operation."""
    choice = _adapted(module) if is_adapted(module) else _of_the_model(module, kernels)
    if isinstance(choice, Change) and replaced_already(module):
        return Left(type(module).__name__, "its forward was replaced by somebody else")
    return choice


def _adapted(module: Foreign) -> Choice:
    reason = why_not(module)
    if reason is not None:
        return Left(f"lora.{type(module).__name__}", reason)
    return Change(("LoraLinear",), adapted.linear_forward)


def _of_the_model(module: nn.Module, kernels: Kernels) -> Choice:
    for layer, choose_for in _CHOICES.items():
        if is_a(module, layer):
            return choose_for(module, kernels)
    if kernels == "Torch":
        return None
    if type(module) is nn.LayerNorm:
        return _layer_norm(module)
    if is_familiar(module):
        return Left(type(module).__name__, "not in the table of layers")
    return None


def _rms_norm(module: Foreign, kernels: Kernels) -> Choice:
    if kernels == "Torch":
        return None
    if module.weight.numel() > MAX_COLUMNS:
        return Left(type(module).__name__, f"rows of more than {MAX_COLUMNS} columns")
    return Change(("RMSNorm",), rms_norm_forward)


def _layer_norm(module: nn.LayerNorm) -> Choice:
    if len(module.normalized_shape) != 1 or module.weight is None or module.bias is None:
        return Left("LayerNorm", "not over one dimension with weight and bias")
    if module.weight.numel() > MAX_COLUMNS:
        return Left("LayerNorm", f"rows of more than {MAX_COLUMNS} columns")
    return Change(("LayerNorm",), layer_norm_forward)


def _mlp(module: Foreign, kernels: Kernels) -> Choice:
    activation = GATES.get(module.config.hidden_act)
    if activation is None:
        return Left(type(module).__name__, f"no kernel for {module.config.hidden_act!r}")
    operation = "SwiGLU" if activation == "silu" else "GeGLU"
    operations = (operation,) if kernels == "Triton" else ()
    forward = MLP_FORWARDS[activation] if operations else plain_forward(type(module))
    if adapted.fits(module, adapted.MLP):
        return Change(("LoraMLP", *operations), adapted.mlp_forward(activation, forward))
    return Change(operations, forward) if operations else None


def _attention(module: Foreign, kernels: Kernels) -> Choice:
    reason = _why_not_rotated(module) if kernels == "Triton" else None
    if reason is not None:
        return Left(type(module).__name__, reason)
    operations = ("RoPE",) if kernels == "Triton" else ()
    make = rotary_forward if operations else plain_forward
    forward = make(type(module))
    if adapted.fits(module, adapted.QKV):
        return Change(("LoraQKV", *operations), adapted.attention_forward(forward))
    return Change(operations, forward) if operations else None


def _why_not_rotated(module: Foreign) -> str | None:
    if not rotates(type(module)):
        return "rotates in another way in this version"
    if _rotated_columns(module.config) != module.head_dim:
        return "rotates a part of each head only"
    return None


def _rotated_columns(config: Foreign) -> int:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {}
    share = rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
    return int(size * (1.0 if share is None else share))


def _layer(module: Foreign, kernels: Kernels) -> Choice:
    if kernels == "Torch":
        return None
    if not is_a(module.post_attention_layernorm, "rms_norm"):
        return Left(type(module).__name__, "its norm is not in the table")
    forward = decoder_layer_forward(type(module))
    if forward is None:
        return Left(type(module).__name__, "returns its cache too in this version of transformers")
    return Change(("AddRMSNorm",), forward)


_CHOICES: dict[str, Callable[[Foreign, Kernels], Choice]] = {
    "rms_norm": _rms_norm,
    "mlp": _mlp,
    "attention": _attention,
    "layer": _layer,
}
