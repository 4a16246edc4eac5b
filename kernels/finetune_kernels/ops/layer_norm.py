r"""Layer normalisation (Ba, Kiros and Hinton 2016, arXiv 1607.06450).

Forward, for a row x:   m = mean(x),  r = 1 / sqrt(mean((x - m)^2) + eps),  n = (x - m) * r,  y = n * w + b
Backward, g = dy * w:   dx = r * (g - mean(g) - n * mean(g * n)),   dw = sum_rows dy * n,   db = sum_rows dy

The variance is taken of the differences, not of the squares: no cancellation for a large mean. Only m and
r are kept. Bound by memory: 2 and 3 trips over x. Called by models through `layer_norm`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from finetune_kernels.launch import kernels_run_on, sum_dtype, whole_row
from finetune_kernels.ops.rows import backward_programs, check_rows, dense_rows


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise the last dimension of `x` to mean 0 and variance 1, scale and shift.

    Args:
        x: `(..., H)`, any floating dtype and strides.
        weight: `(H,)`, same device and dtype.
        bias: `(H,)`, same device and dtype.
        eps: Added to the variance.

    Returns:
        `(..., H)` in the dtype of `x`.

    Raises:
        ValueError: The shapes or devices do not fit, or H exceeds 8192.
    """
    check_rows(x, weight=weight, bias=bias)
    if not kernels_run_on(x):
        return layer_norm_reference(x, weight, bias, eps)
    y: Tensor = torch.ops.finetune.layer_norm(x, weight, bias, eps)[0]
    return y


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """The same in plain PyTorch: oracle of the tests, and what runs without a GPU."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


@triton.jit
def _forward_kernel(
    x, weight, bias, y, mean, r, columns, eps, block: tl.constexpr, wide: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < columns
    values = tl.load(x + row * columns + column, mask=inside, other=0.0).to(wide)
    middle = tl.sum(values) / columns
    centred = tl.where(inside, values - middle, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred) / columns + eps)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(wide)
    shift = tl.load(bias + column, mask=inside, other=0.0).to(wide)
    tl.store(y + row * columns + column, centred * inverse * scale + shift, mask=inside)
    tl.store(mean + row, middle)
    tl.store(r + row, inverse)


@triton.jit
def _backward_kernel(
    dy, x, weight, mean, r, dx, dw, db, rows, columns, block: tl.constexpr, wide: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < columns
    scale = tl.load(weight + column, mask=inside, other=0.0).to(wide)
    weight_sum = tl.zeros((block,), dtype=wide)
    bias_sum = tl.zeros((block,), dtype=wide)
    for row in range(program, rows, tl.num_programs(0)):
        offset = tl.cast(row, tl.int64) * columns + column
        values = tl.load(x + offset, mask=inside, other=0.0).to(wide)
        upstream = tl.load(dy + offset, mask=inside, other=0.0).to(wide)
        inverse = tl.load(r + row)
        normalised = tl.where(inside, (values - tl.load(mean + row)) * inverse, 0.0)
        scaled = upstream * scale
        middle = tl.sum(scaled) / columns
        along = tl.sum(scaled * normalised) / columns
        tl.store(dx + offset, inverse * (scaled - middle - normalised * along), mask=inside)
        weight_sum += upstream * normalised
        bias_sum += upstream
    tl.store(dw + program * columns + column, weight_sum, mask=inside)
    tl.store(db + program * columns + column, bias_sum, mask=inside)


@torch.library.custom_op("finetune::layer_norm", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    (rows,) = dense_rows(x)
    y = torch.empty_like(rows)
    mean = torch.empty(rows.shape[0], dtype=sum_dtype(x.dtype), device=x.device)
    r = torch.empty_like(mean)
    if rows.shape[0]:
        _forward_kernel[(rows.shape[0],)](
            *(rows, weight.contiguous(), bias.contiguous(), y, mean, r, rows.shape[1], eps),
            **whole_row(rows.shape[1], rows.dtype),
        )
    return y.view(x.shape), mean, r


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.numel() // x.shape[-1], dtype=sum_dtype(x.dtype))
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), mean, torch.empty_like(mean)


@torch.library.custom_op("finetune::layer_norm_backward", mutates_args=())
def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    rows, upstream = dense_rows(x, dy)
    programs = backward_programs(rows)
    dx = torch.empty_like(rows)
    dw = torch.empty(programs, rows.shape[1], dtype=r.dtype, device=x.device)
    db = torch.empty_like(dw)
    _backward_kernel[(programs,)](
        *(upstream, rows, weight.contiguous(), mean, r, dx, dw, db, *rows.shape),
        **whole_row(rows.shape[1], rows.dtype),
    )
    return dx.view(x.shape), dw.sum(0).to(weight.dtype), db.sum(0).to(weight.dtype)


@_backward.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return dx, torch.empty_like(weight), torch.empty_like(weight)


def _save(ctx, inputs, output) -> None:
    x, weight, _, _ = inputs
    ctx.save_for_backward(x, weight, *output[1:])


def _differentiate(ctx, dy, *_):
    return *torch.ops.finetune.layer_norm_backward(dy, *ctx.saved_tensors), None


_forward.register_autograd(_differentiate, setup_context=_save)
