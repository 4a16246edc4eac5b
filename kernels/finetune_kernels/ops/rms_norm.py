r"""Root mean square layer normalisation (Zhang and Sennrich 2019, arXiv 1910.07467).

Forward, for a row x of length H:   r = 1 / sqrt(mean(x^2) + eps),   y = cast(x * r) * w
Backward, with g = dy * w:          dx = r * (g - x * r^2 * mean(g * x)),   dw = sum_rows dy * cast(x * r)

The cast to the input's dtype stands before the weight, as in transformers' LLaMA; sums are float32
(float64 for float64 input). Only r is kept for the backward pass. Both passes are bound by memory:
2 and 3 trips over x. Called by models through `rms_norm`; patching a model is not done here.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from finetune_kernels.launch import kernels_run_on, sum_dtype, whole_row
from finetune_kernels.ops.rows import backward_programs, check_rows, dense_rows


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Normalise the last dimension of `x` by its root mean square and scale by `weight`.

    Args:
        x: `(..., H)`, any floating dtype. Rows may be strided or expanded; they are copied then.
        weight: `(H,)`, same device.
        eps: Added to the mean of squares.

    Returns:
        `(..., H)` in the dtype that `x * weight` has.

    Raises:
        ValueError: The shapes or devices do not fit, or H exceeds 8192.
    """
    check_rows(x, weight=weight)
    if not kernels_run_on(x):
        return rms_norm_reference(x, weight, eps)
    y: Tensor = torch.ops.finetune.rms_norm(x, weight, eps)[0]
    return y


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """The same in plain PyTorch: oracle of the tests, and what runs without a GPU."""
    wide = x.to(sum_dtype(x.dtype))
    normalised = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normalised.to(x.dtype) * weight


@triton.jit
def _forward_kernel(x, weight, y, r, columns, eps, block: tl.constexpr, wide: tl.constexpr):
    # Offsets in 64 bits: rows * columns passes 2^31 at half a million rows of 4096.
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < columns
    values = tl.load(x + row * columns + column, mask=inside, other=0.0).to(wide)
    inverse = 1.0 / tl.sqrt(tl.sum(values * values) / columns + eps)
    scale = tl.load(weight + column, mask=inside, other=0.0)
    normalised = (values * inverse).to(x.dtype.element_ty).to(wide)
    tl.store(y + row * columns + column, (normalised * scale.to(wide)), mask=inside)
    tl.store(r + row, inverse)


@triton.jit
def _backward_kernel(
    dy, x, weight, r, dx, dw, rows, columns, block: tl.constexpr, wide: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < columns
    scale = tl.load(weight + column, mask=inside, other=0.0).to(wide)
    total = tl.zeros((block,), dtype=wide)
    for row in range(program, rows, tl.num_programs(0)):
        offset = tl.cast(row, tl.int64) * columns + column
        values = tl.load(x + offset, mask=inside, other=0.0).to(wide)
        upstream = tl.load(dy + offset, mask=inside, other=0.0).to(wide)
        inverse = tl.load(r + row)
        scaled = upstream * scale
        mean = tl.sum(scaled * values) / columns
        gradient = inverse * (scaled - values * (inverse * inverse * mean))
        tl.store(dx + offset, gradient, mask=inside)
        total += upstream * (values * inverse).to(x.dtype.element_ty).to(wide)
    tl.store(dw + program * columns + column, total, mask=inside)


@torch.library.custom_op("finetune::rms_norm", mutates_args=())
def _forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    (rows,) = dense_rows(x)
    y = torch.empty(rows.shape, dtype=torch.result_type(x, weight), device=x.device)
    r = torch.empty(rows.shape[0], dtype=sum_dtype(x.dtype), device=x.device)
    if rows.shape[0]:
        _forward_kernel[(rows.shape[0],)](
            rows,
            weight.contiguous(),
            y,
            r,
            rows.shape[1],
            eps,
            **whole_row(rows.shape[1], rows.dtype),
        )
    return y.view(x.shape), r


@_forward.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=torch.result_type(x, weight), device=x.device)
    return y, x.new_empty(x.numel() // x.shape[-1], dtype=sum_dtype(x.dtype))


@torch.library.custom_op("finetune::rms_norm_backward", mutates_args=())
def _backward(dy: Tensor, x: Tensor, weight: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    rows, upstream = dense_rows(x, dy)
    programs = backward_programs(rows)
    dx = torch.empty_like(rows)
    dw = torch.empty(programs, rows.shape[1], dtype=r.dtype, device=x.device)
    _backward_kernel[(programs,)](
        upstream,
        rows,
        weight.contiguous(),
        r,
        dx,
        dw,
        *rows.shape,
        **whole_row(rows.shape[1], rows.dtype),
    )
    return dx.view(x.shape), dw.sum(0).to(weight.dtype)


@_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight)


def _save(ctx, inputs, output) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output[1])


def _differentiate(ctx, dy, _):
    x, weight, r = ctx.saved_tensors
    return *torch.ops.finetune.rms_norm_backward(dy, x, weight, r), None


_forward.register_autograd(_differentiate, setup_context=_save)
