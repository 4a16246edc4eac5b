"""Read adapters of PEFT as `Projection`, and say which layers and calls stay PEFT's.

What a layer is decides when it is patched (`why_not`); what it is asked to do decides at each call
(`projection`): a disabled, merged or second adapter, hooks that must see its parts, weights that lie
divided over processes or in other dtypes all go through PEFT's own forward. Called by `patching.adapted`.
"""

import torch
from torch import Tensor, nn

from finetune_kernels.launch import kernels_run_on
from finetune_kernels.ops.projection import Adapter, Projection
from finetune_kernels.patching import Foreign
from finetune_kernels.patching.replacement import replaced_by_another

# Classes by module and name: other libraries and other adapters have layers of the same names.
PLAIN = {("peft.tuners.lora.layer", "Linear"), ("peft.tuners.lora.bnb", "Linear4bit")}
DENSE, TURNED = ("torch.nn.modules.linear", "Linear"), ("transformers.pytorch_utils", "Conv1D")
FOUR_BITS = ("bitsandbytes.nn.modules", "Linear4bit")
BASES = (DENSE, TURNED, FOUR_BITS)


def is_adapted(module: nn.Module) -> bool:
    """Whether it is a layer of PEFT's with low-rank matrices."""
    return type(module).__module__.startswith("peft.") and hasattr(module, "lora_A")


def why_not(module: Foreign) -> str | None:
    """Why this layer is left to PEFT, or nothing."""
    if _kind(module) not in PLAIN:
        return "not a plain adapter of a linear layer"
    if _kind(module.base_layer) not in BASES:
        return f"on a {type(module.base_layer).__name__}"
    if _needs_a_kernel(module.base_layer):
        return "its base of 4 bits would be read by a Triton kernel"
    if len(module.lora_A) != 1:
        return f"{len(module.lora_A)} adapters"
    (name,) = module.lora_A
    if name in getattr(module, "lora_variant", ()) or module.use_dora.get(name):
        return "a variant of LoRA, such as DoRA"
    if getattr(module.lora_dropout[name], "p", 0.0) > 0.0:
        return f"dropout {module.lora_dropout[name].p}"
    if getattr(module, "lora_bias", {}).get(name):
        return "a bias in the adapter"
    return None


def _needs_a_kernel(layer: Foreign) -> bool:
    """Whether bitsandbytes reads this layer faster than we do where no kernel of ours is permitted."""
    return bool(_kind(layer) == FOUR_BITS and layer.weight.is_cuda) and not kernels_run_on(
        layer.weight
    )


def _kind(module: nn.Module) -> tuple[str, str]:
    return type(module).__module__, type(module).__name__


def projection(module: Foreign, x: Tensor) -> Projection | None:
    """The tensors of a linear layer, adapted or frozen, as this call needs them; nothing if PEFT must run."""
    if not is_adapted(module):
        return _frozen(module, x)
    if module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    (name,) = module.active_adapters
    if name not in module.lora_A or why_not(module) is not None or _watched(module):
        return None
    down, up = module.lora_A[name], module.lora_B[name]
    base = _frozen(module.base_layer, x)
    if (
        base is None
        or _watched(down)
        or _watched(up)
        or not _computes_in(x, down.weight, up.weight)
    ):
        return None
    return Projection(
        base.weight, base.bias, Adapter(down.weight, up.weight, module.scaling[name]), base.state
    )


def _frozen(layer: Foreign, x: Tensor) -> Projection | None:
    kind = _kind(layer)
    if kind not in BASES or _watched(layer):
        return None
    if layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad):
        return None
    if kind == FOUR_BITS:
        return _in_four_bits(layer, x)
    if not _computes_in(x, layer.weight):
        return None
    return Projection(layer.weight.t() if kind == TURNED else layer.weight, layer.bias)


def _in_four_bits(layer: Foreign, x: Tensor) -> Projection | None:
    state = getattr(layer.weight, "quant_state", None)
    # On some CPUs bitsandbytes packs the bytes anew.
    if state is None or getattr(state, "packing_format_for_cpu", False):
        return None
    dtype = _dtype(x)
    if x.dtype != dtype or layer.compute_dtype not in (None, dtype):
        return None
    return Projection(layer.weight.data, layer.bias, None, state)


def _dtype(x: Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _computes_in(x: Tensor, *weights: Tensor) -> bool:
    """Whether PyTorch computes with these weights in the one dtype in which the blocks do."""
    if any(type(w) not in (Tensor, nn.Parameter) for w in weights):
        return False  # divided over processes, or quantised
    if torch.is_autocast_enabled(x.device.type):
        return x.dtype != torch.float64
    return all(w.dtype == x.dtype for w in weights)


def _watched(module: nn.Module) -> bool:
    """Whether calls of this module are seen by hooks, or its forward is somebody else's."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    backward = module._backward_hooks or module._backward_pre_hooks
    return bool(hooks or backward) or replaced_by_another(module)
