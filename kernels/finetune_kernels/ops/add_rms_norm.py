r"""Residual addition and RMSNorm in one pass (Zhang and Sennrich 2019, arXiv 1910.07467).

Forward:    s = cast(residual + x),  r = 1 / sqrt(mean(s^2) + eps),  y = cast(s * r) * w;  returns y and s
Backward, with g = dy * w and ds the gradient of the returned s:
            dx = dresidual = ds + r * (g - s * r^2 * mean(g * s)),   dw = sum_rows dy * cast(s * r)

One launch where eager PyTorch reads the sum twice more. Bound by memory: 4 trips forward and 4 backward.
Called by models through `add_rms_norm`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from finetune_kernels.launch import kernels_run_on, same_device, sum_dtype, whole_row
from finetune_kernels.ops.rms_norm import rms_norm_reference
from finetune_kernels.ops.rows import backward_programs, check_rows, dense_rows


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Add `x` to the residual stream, and normalise the sum.

    Args:
        x: `(..., H)`, what the last block gave.
        residual: As `x`: same shape and dtype.
        weight: `(H,)`, same device.
        eps: Added to the mean of squares.

    Returns:
        The normalised sum, and the sum (the new residual), both `(..., H)`.

    Raises:
        ValueError: The shapes, dtypes or devices do not fit, or H exceeds 8192.
    """
    if x.shape != residual.shape or x.dtype != residual.dtype:
        raise ValueError(
            f"x {tuple(x.shape)} {x.dtype} and residual {tuple(residual.shape)} {residual.dtype} differ"
        )
    same_device(x=x, residual=residual)
    check_rows(x, weight=weight)
    if not kernels_run_on(x):
        return add_rms_norm_reference(x, residual, weight, eps)
    y, total, _ = torch.ops.finetune.add_rms_norm(x, residual, weight, eps)
    return y, total


def add_rms_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch: oracle of the tests, and what runs without a GPU."""
    total = residual + x
    return rms_norm_reference(total, weight, eps), total


@triton.jit
def _forward_kernel(
    x, residual, weight, y, total, r, columns, eps, block: tl.constexpr, wide: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < columns
    offset = row * columns + column
    values = tl.load(x + offset, mask=inside, other=0.0).to(wide)
    values += tl.load(residual + offset, mask=inside, other=0.0).to(wide)
    rounded = values.to(x.dtype.element_ty)
    tl.store(total + offset, rounded, mask=inside)
    values = rounded.to(wide)
    inverse = 1.0 / tl.sqrt(tl.sum(values * values) / columns + eps)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(wide)
    normalised = (values * inverse).to(x.dtype.element_ty).to(wide)
    tl.store(y + offset, normalised * scale, mask=inside)
    tl.store(r + row, inverse)


@triton.jit
def _backward_kernel(
    dy, dtotal, total, weight, r, dx, dw, rows, columns, block: tl.constexpr, wide: tl.constexpr
):
    # Rows are counted in 32 bits: in 64, assemblers spill a register; offsets need all 64.
    program = tl.program_id(0)
    column = tl.arange(0, block)
    inside = column < columns
    scale = tl.load(weight + column, mask=inside, other=0.0).to(wide)
    weight_sum = tl.zeros((block,), dtype=wide)
    for row in range(program, rows, tl.num_programs(0)):
        offset = tl.cast(row, tl.int64) * columns + column
        values = tl.load(total + offset, mask=inside, other=0.0).to(wide)
        upstream = tl.load(dy + offset, mask=inside, other=0.0).to(wide)
        inverse = tl.load(r + row)
        scaled = upstream * scale
        mean = tl.sum(scaled * values) / columns
        gradient = inverse * (scaled - values * (inverse * inverse * mean))
        gradient += tl.load(dtotal + offset, mask=inside, other=0.0).to(wide)
        tl.store(dx + offset, gradient, mask=inside)
        weight_sum += upstream * (values * inverse).to(total.dtype.element_ty).to(wide)
    tl.store(dw + program.to(tl.int64) * columns + column, weight_sum, mask=inside)


@torch.library.custom_op("finetune::add_rms_norm", mutates_args=())
def _forward(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows, stream = dense_rows(x, residual)
    y = torch.empty(rows.shape, dtype=torch.result_type(x, weight), device=x.device)
    total = torch.empty_like(rows)
    r = torch.empty(rows.shape[0], dtype=sum_dtype(x.dtype), device=x.device)
    if rows.shape[0]:
        _forward_kernel[(rows.shape[0],)](
            *(rows, stream, weight.contiguous(), y, total, r, rows.shape[1], eps),
            **whole_row(rows.shape[1], rows.dtype),
        )
    return y.view(x.shape), total.view(x.shape), r


@_forward.register_fake
def _(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=torch.result_type(x, weight), device=x.device)
    r = x.new_empty(x.numel() // x.shape[-1], dtype=sum_dtype(x.dtype))
    return y, torch.empty(x.shape, dtype=x.dtype, device=x.device), r


@torch.library.custom_op("finetune::add_rms_norm_backward", mutates_args=())
def _backward(
    dy: Tensor, dtotal: Tensor, total: Tensor, weight: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    rows, upstream, stream = dense_rows(total, dy, dtotal)
    programs = backward_programs(rows)
    dx = torch.empty_like(rows)
    dw = torch.empty(programs, rows.shape[1], dtype=r.dtype, device=rows.device)
    _backward_kernel[(programs,)](
        *(upstream, stream, rows, weight.contiguous(), r, dx, dw, *rows.shape),
        **whole_row(rows.shape[1], rows.dtype),
    )
    return dx.view(total.shape), dw.sum(0).to(weight.dtype)


@_backward.register_fake
def _(
    dy: Tensor, dtotal: Tensor, total: Tensor, weight: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(total), torch.empty_like(weight)


def _save(ctx, inputs, output) -> None:
    _, total, r = output
    ctx.save_for_backward(total, inputs[2], r)


def _differentiate(ctx, dy, dtotal, _):
    total, weight, r = ctx.saved_tensors
    dx, dw = torch.ops.finetune.add_rms_norm_backward(dy, dtotal, total, weight, r)
    return dx, dx, dw, None


_forward.register_autograd(_differentiate, setup_context=_save)
