"""Put our operations into one model: which layers, how many, which not, and back again.

`patch` is what the trainer calls. It exchanges forwards of module instances (`patching.replacement`) for
the layers that the table has (`patching.architectures`), and says of the others that it knows why not.
Parameters, names and state dicts do not change. It does not touch the head and the loss.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from finetune_kernels.launch import kernels_run_on
from finetune_kernels.ops.rms_norm import MAX_COLUMNS
from finetune_kernels.patching import Foreign
from finetune_kernels.patching.architectures import GATES, is_a, is_familiar
from finetune_kernels.patching.forwards import (
    MLP_FORWARDS,
    decoder_layer_forward,
    layer_norm_forward,
    returns_a_tensor,
    rms_norm_forward,
)
from finetune_kernels.patching.replacement import Replacement, replace_forward, replaced_already
from finetune_kernels.patching.rotary import rotary_forward, rotates

Kernels = Literal["Triton", "Torch"]


@dataclass(frozen=True)
class Patch:
    """What `patch` did to a model.

    Attributes:
        kernels: Which kind of kernels the patched layers run.
        layers: How many layers were patched, by operation.
        left: Layers that were left alone: what they are, and why.
    """

    kernels: Kernels
    layers: Mapping[str, int]
    left: Mapping[str, str]
    _replacements: tuple[Replacement, ...] = ()

    def undo(self) -> None:
        """Make the model what it was. Layers that somebody else patched since stay as they are."""
        for replacement in self._replacements:
            replacement.undo()


@dataclass(frozen=True)
class _Change:
    operation: str
    forward: Callable[..., Any]


@dataclass(frozen=True)
class _Left:
    what: str
    why: str


def patch(model: nn.Module, kernels: Kernels = "Triton") -> Patch:
    """Exchange the layers of this model that have an operation of ours.

    Call it after adapters are added and before the model is wrapped for several processes.

    Args:
        model: Any model of transformers, with adapters of PEFT or without. No other instance changes.
        kernels: `Triton`: GPU kernels. `Torch`: only what is faster in plain PyTorch, on any device.

    Returns:
        What was patched, what was left alone and why, and the way back.

    Raises:
        ValueError: `Triton` was asked for, and the model's device runs no Triton kernels.
    """
    if kernels == "Triton":
        _require_kernels(model)
    made, counts, left = [], Counter[str](), dict[str, str]()
    for module in model.modules():
        choice = _choose(module, kernels)
        if isinstance(choice, _Left):
            left[choice.what] = choice.why
        elif choice is not None:
            made.append(replace_forward(module, choice.forward))
            counts[choice.operation] += 1
    return Patch(kernels, MappingProxyType(dict(counts)), MappingProxyType(left), tuple(made))


def _require_kernels(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not kernels_run_on(parameter):
            raise ValueError(
                f"Triton kernels need a GPU, and {name} is on {parameter.device}; "
                "move the model, or ask for kernels='Torch'"
            )


def _choose(module: nn.Module, kernels: Kernels) -> _Change | _Left | None:
    if kernels == "Torch":
        return None
    choice = _choose_by_class(module)
    if isinstance(choice, _Change) and replaced_already(module):
        return _Left(type(module).__name__, "its forward was replaced by somebody else")
    return choice


def _choose_by_class(module: nn.Module) -> _Change | _Left | None:
    for layer, choose in _CHOICES.items():
        if is_a(module, layer):
            return choose(module)
    if type(module) is nn.LayerNorm:
        return _layer_norm(module)
    if is_familiar(module):
        return _Left(type(module).__name__, "not in the table of layers")
    return None


def _rms_norm(module: Foreign) -> _Change | _Left:
    if module.weight.numel() > MAX_COLUMNS:
        return _Left(type(module).__name__, f"rows of more than {MAX_COLUMNS} columns")
    return _Change("RMSNorm", rms_norm_forward)


def _layer_norm(module: nn.LayerNorm) -> _Change | _Left:
    if len(module.normalized_shape) != 1 or module.weight is None or module.bias is None:
        return _Left("LayerNorm", "not over one dimension with weight and bias")
    if module.weight.numel() > MAX_COLUMNS:
        return _Left("LayerNorm", f"rows of more than {MAX_COLUMNS} columns")
    return _Change("LayerNorm", layer_norm_forward)


def _mlp(module: Foreign) -> _Change | _Left:
    activation = GATES.get(module.config.hidden_act)
    if activation is None:
        return _Left(type(module).__name__, f"no kernel for {module.config.hidden_act!r}")
    operation = "SwiGLU" if activation == "silu" else "GeGLU"
    return _Change(operation, MLP_FORWARDS[activation])


def _attention(module: Foreign) -> _Change | _Left:
    if not rotates(type(module)):
        return _Left(type(module).__name__, "rotates in another way in this version")
    if _rotated_columns(module.config) != module.head_dim:
        return _Left(type(module).__name__, "rotates a part of each head only")
    return _Change("RoPE", rotary_forward(type(module)))


def _rotated_columns(config: Foreign) -> int:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {}
    share = rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
    return int(size * (1.0 if share is None else share))


def _layer(module: Foreign) -> _Change | _Left:
    if not is_a(module.post_attention_layernorm, "rms_norm"):
        return _Left(type(module).__name__, "its norm is not in the table")
    if not returns_a_tensor(type(module)):
        return _Left(type(module).__name__, "returns a tuple in this version of transformers")
    return _Change("AddRMSNorm", decoder_layer_forward)


_CHOICES: dict[str, Callable[[Foreign], _Change | _Left]] = {
    "rms_norm": _rms_norm,
    "mlp": _mlp,
    "attention": _attention,
    "layer": _layer,
}
