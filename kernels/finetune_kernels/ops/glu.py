r"""Gated linear units SwiGLU and GeGLU (Shazeer 2020, arXiv 2002.05202), elementwise.

Forward:    h = cast(f(g)) * u      with f = silu, gelu (erf) or gelu_tanh, g the gate and u the up values
Backward:   dg = dh * u * f'(g),    du = dh * f(g)

Only g and u are kept; f(g) is computed anew in the backward pass. That pass can write h, dg and du over
dh, g and u (`glu_backward_`), which is what the fused MLP does: no memory beyond the inputs. Bound by
memory: 3 trips forward, 5 to 6 backward. Called by models through `swiglu` and `geglu`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from finetune_kernels.launch import ELEMENTWISE_BLOCK, arithmetic, kernels_run_on, same_device
from finetune_kernels.ops.functions import activate

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")


def swiglu(gate: Tensor, up: Tensor, *, overwrite: bool = False) -> Tensor:
    """`silu(gate) * up`; see `gated`."""
    return gated(gate, up, "silu", overwrite=overwrite)


def geglu(gate: Tensor, up: Tensor, *, approximate: bool = True, overwrite: bool = False) -> Tensor:
    """`gelu(gate) * up`, with the tanh approximation or exact; see `gated`."""
    return gated(gate, up, "gelu_tanh" if approximate else "gelu", overwrite=overwrite)


def gated(gate: Tensor, up: Tensor, activation: str, *, overwrite: bool = False) -> Tensor:
    """`f(gate) * up`.

    Args:
        gate: Any shape, any floating dtype, any strides.
        up: As `gate`.
        activation: `silu`, `gelu` or `gelu_tanh`.
        overwrite: Write the gradients over `gate` and `up` in the backward pass. Only for a caller
            who knows that nobody else reads them after that; autograd refuses a second backward pass.

    Returns:
        The shape and dtype of `gate`.

    Raises:
        ValueError: Shapes, dtypes or devices differ, or the activation is unknown.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(
            f"gate {tuple(gate.shape)} {gate.dtype} and up {tuple(up.shape)} {up.dtype} differ"
        )
    same_device(gate=gate, up=up)
    if not kernels_run_on(gate):
        return gated_reference(gate, up, activation)
    h: Tensor = torch.ops.finetune.glu(gate, up, activation, overwrite)
    return h


def gated_reference(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """The same in plain PyTorch: oracle of the tests, and what runs without a GPU."""
    if activation == "silu":
        return functional.silu(gate) * up
    return functional.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up


def glu_backward_(dh: Tensor, gate: Tensor, up: Tensor, activation: str) -> None:
    """Write h over `dh`, dgate over `gate` and dup over `up`; all contiguous, of one shape.

    Raises:
        ValueError: One of them is not contiguous.
    """
    if not (dh.is_contiguous() and gate.is_contiguous() and up.is_contiguous()):
        raise ValueError("dh, gate and up must be contiguous to be written over")
    if kernels_run_on(gate):
        torch.ops.finetune.glu_backward_(dh, gate, up, activation)
    else:
        _overwrite_in_pytorch(dh, gate, up, activation)


def _overwrite_in_pytorch(dh: Tensor, gate: Tensor, up: Tensor, activation: str) -> None:
    if activation == "silu":
        active = functional.silu(gate)
        dgate = torch.ops.aten.silu_backward(dh * up, gate)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        active = functional.gelu(gate, approximate=approximate)
        dgate = torch.ops.aten.gelu_backward(dh * up, gate, approximate=approximate)
    h = active * up
    torch.mul(dh, active, out=up)
    gate.copy_(dgate)
    dh.copy_(h)


@triton.jit
def _forward_kernel(
    gate, up, h, count, activation: tl.constexpr, block: tl.constexpr, wide: tl.constexpr
):
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    value, _ = activate(tl.load(gate + index, mask=inside, other=0.0).to(wide), activation)
    # Rounded before the product, as the two operations of eager PyTorch round.
    value = value.to(gate.dtype.element_ty).to(wide)
    tl.store(h + index, value * tl.load(up + index, mask=inside, other=0.0).to(wide), mask=inside)


@triton.jit
def _backward_kernel(
    dh,
    gate,
    up,
    h,
    dgate,
    dup,
    count,
    activation: tl.constexpr,
    keep_h: tl.constexpr,
    block: tl.constexpr,
    wide: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    upstream = tl.load(dh + index, mask=inside, other=0.0).to(wide)
    factor = tl.load(up + index, mask=inside, other=0.0).to(wide)
    value, slope = activate(tl.load(gate + index, mask=inside, other=0.0).to(wide), activation)
    if keep_h:
        tl.store(h + index, value.to(gate.dtype.element_ty).to(wide) * factor, mask=inside)
    tl.store(dgate + index, upstream * factor * slope, mask=inside)
    tl.store(dup + index, upstream * value, mask=inside)


def _launch(gate: Tensor, activation: str) -> dict[str, object]:
    wide = arithmetic(gate.dtype)
    return {"activation": activation, "block": ELEMENTWISE_BLOCK, "wide": wide, "num_warps": 4}


def _programs(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), ELEMENTWISE_BLOCK),)


@torch.library.custom_op("finetune::glu", mutates_args=())
def _forward(gate: Tensor, up: Tensor, activation: str, overwrite: bool) -> Tensor:
    h = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    if gate.numel():
        _forward_kernel[_programs(gate)](
            gate.contiguous(), up.contiguous(), h, gate.numel(), **_launch(gate, activation)
        )
    return h


@_forward.register_fake
def _(gate: Tensor, *_: object) -> Tensor:
    return torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)


@torch.library.custom_op("finetune::glu_backward", mutates_args=())
def _backward(dh: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    dh, gate, up = dh.contiguous(), gate.contiguous(), up.contiguous()
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    if gate.numel():
        _backward_kernel[_programs(gate)](
            *(dh, gate, up, dh, dgate, dup, gate.numel()), keep_h=False, **_launch(gate, activation)
        )
    return dgate, dup


@_backward.register_fake
def _(dh: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    return (
        torch.empty(gate.shape, dtype=gate.dtype, device=gate.device),
        torch.empty(up.shape, dtype=up.dtype, device=up.device),
    )


@torch.library.custom_op("finetune::glu_backward_", mutates_args=("dh", "gate", "up"))
def _backward_in_place(dh: Tensor, gate: Tensor, up: Tensor, activation: str) -> None:
    if gate.numel():
        _backward_kernel[_programs(gate)](
            *(dh, gate, up, dh, gate, up, gate.numel()), keep_h=True, **_launch(gate, activation)
        )


@_backward_in_place.register_fake
def _(*_: object) -> None:
    return None


@torch.library.custom_op("finetune::glu_gradients_", mutates_args=("gate", "up"))
def _gradients_in_place(dh: Tensor, gate: Tensor, up: Tensor, activation: str) -> None:
    # `dh` may be shared with another branch of the graph: it is only read here.
    if gate.numel():
        _backward_kernel[_programs(gate)](
            *(dh, gate, up, dh, gate, up, gate.numel()), keep_h=False, **_launch(gate, activation)
        )


@_gradients_in_place.register_fake
def _(*_: object) -> None:
    return None


def _save(ctx, inputs, output) -> None:
    gate, up, ctx.activation, ctx.overwrite = inputs
    ctx.save_for_backward(gate, up)


def _differentiate(ctx, dh):
    gate, up = ctx.saved_tensors
    if ctx.overwrite and gate.is_contiguous() and up.is_contiguous():
        torch.ops.finetune.glu_gradients_(dh.contiguous(), gate, up, ctx.activation)
        return gate, up, None, None
    return *torch.ops.finetune.glu_backward(dh, gate, up, ctx.activation), None, None


_forward.register_autograd(_differentiate, setup_context=_save)
