r"""Cross entropy of given logits, with label smoothing, z-loss and softcap.

Smoothing: Szegedy et al. 2016, arXiv 1512.00567; z-loss: PaLM, arXiv 2204.02311; softcap: Gemma 2, arXiv
2408.00118.

With l = c * tanh(x / c) (or l = x), m = max(l), t = log(sum(exp(l - m))), so that logsumexp = m + t:
Forward:    loss = (1 - e) * (t - (l_y - m)) + e * (t - mean(l - m)) + z * (m + t)^2
Backward:   dl_j = g * ((1 + 2 z (m + t)) * p_j - (1 - e) * [j = y] - e / V),   p_j = exp(l_j - m - t)
            dx = dl * (1 - (l / c)^2)

m and t are kept apart: their sum has no digits left for t where logits are far from zero. p_y - 1 is formed
in float32 and rounded once; rounded before, a confident row would lose its gradient. Columns are walked in
blocks, so any vocabulary fits. Each row has its own upstream gradient. Bound by memory: 1 trip over the
logits forward (2 with smoothing), 2 backward, which may write over the logits. Called through
`cross_entropy`; `linear_cross_entropy` and `linear_log_probs` launch the kernels on their own buffers.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from finetune_kernels.launch import ROW_BLOCK, arithmetic, kernels_run_on, same_device, sum_dtype
from finetune_kernels.ops.functions import tanh


@dataclass(frozen=True)
class Terms:
    """What the loss of a row is made of.

    Attributes:
        label_smoothing: Share e of the target spread over the whole vocabulary.
        z_loss: Weight z of the squared logsumexp, which keeps logits near zero.
        softcap: Bound c of the logits; 0 for none.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float = 0.0


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    reduction: str = "mean",
    num_items: Tensor | float | None = None,
    overwrite: bool = False,
) -> Tensor:
    """Cross entropy of each row of logits with its label.

    Args:
        logits: `(N, V)`, any floating dtype.
        labels: `(N,)` integers below V, or `ignore_index`.
        ignore_index: Rows with this label have no loss and no gradient.
        label_smoothing: See `Terms`.
        z_loss: See `Terms`.
        softcap: See `Terms`.
        reduction: `mean` over the rows that count, `sum`, or `none`.
        num_items: For `mean`: what to divide the sum by instead, so that the micro-batches of one step
            are weighted alike.
        overwrite: Write the gradient over `logits` in the backward pass. Only for a caller who knows
            that nobody else reads them after that.

    Returns:
        float32 (float64 for float64 logits): a scalar, or `(N,)` for `none`. The mean of no rows is 0.
        A label outside the vocabulary makes the loss NaN on a GPU and raises on a CPU.

    Raises:
        ValueError: The shapes or devices do not fit, or `reduction` is unknown.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (N, V) and labels (N,), not {tuple(logits.shape)}, {tuple(labels.shape)}"
        )
    same_device(logits=logits, labels=labels)
    terms = Terms(label_smoothing, z_loss, softcap)
    if kernels_run_on(logits):
        operation = torch.ops.finetune.cross_entropy
        rows: Tensor = operation(logits, labels, ignore_index, astuple(terms), overwrite)[0]
    else:
        rows = cross_entropy_reference(logits, labels, terms, ignore_index)
    return reduce(rows, labels, ignore_index, reduction, num_items)


def reduce(
    rows: Tensor,
    labels: Tensor,
    ignore_index: int,
    reduction: str,
    num_items: Tensor | float | None,
) -> Tensor:
    """Losses of rows (or their sum already) to what `cross_entropy` returns."""
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    if reduction != "mean":
        raise ValueError(f"reduction is mean, sum or none, not {reduction!r}")
    if num_items is None:
        num_items = (labels != ignore_index).sum().clamp_min(1)
    return rows.sum() / num_items


def cross_entropy_reference(
    logits: Tensor, labels: Tensor, terms: Terms, ignore_index: int = -100
) -> Tensor:
    """Losses of the rows in plain PyTorch: oracle of the tests, and what runs without a GPU."""
    wide = logits.to(sum_dtype(logits.dtype))
    if terms.softcap:
        wide = terms.softcap * torch.tanh(wide / terms.softcap)
    loss = functional.cross_entropy(
        *(wide, labels),
        ignore_index=ignore_index,
        label_smoothing=terms.label_smoothing,
        reduction="none",
    )
    if terms.z_loss:
        penalty = terms.z_loss * torch.logsumexp(wide, -1).square()
        loss = loss + penalty.masked_fill(labels == ignore_index, 0.0)
    return loss


@triton.jit
def _capped(x, softcap, capped: tl.constexpr):
    return softcap * tanh(x / softcap) if capped else x


@triton.jit
def forward_kernel(
    logits,
    labels,
    loss,
    stats,
    columns,
    row_stride,
    ignore_index,
    label_smoothing,
    z_loss,
    softcap,
    smooth: tl.constexpr,
    capped: tl.constexpr,
    block: tl.constexpr,
    wide: tl.constexpr,
):
    """Loss, m and t of one row a program."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    start = logits + row * tl.cast(row_stride, tl.int64)
    column = tl.arange(0, block)
    # A maximum and a sum a lane, joined once: no reduction over the program inside the loop.
    # The lowest finite number instead of infinity: the difference of two infinities is NaN.
    highest = tl.full((block,), -3.0e38, dtype=wide)
    total = tl.zeros((block,), dtype=wide)
    for first in range(0, columns, block):
        inside = first + column < columns
        values = tl.load(start + first + column, mask=inside, other=0.0).to(wide)
        values = tl.where(inside, _capped(values, softcap, capped), -3.0e38)
        higher = tl.maximum(highest, values)
        total = total * tl.exp(highest - higher)
        total += tl.where(inside, tl.exp(values - higher), 0.0)
        highest = higher
    m = tl.max(highest)
    t = tl.log(tl.sum(total * tl.exp(highest - m)))
    known = (label >= 0) & (label < columns)
    picked = tl.load(start + label, mask=known, other=0.0).to(wide)
    value = t - (_capped(picked, softcap, capped) - m)
    if smooth:
        distance = tl.zeros((block,), dtype=wide)
        for first in range(0, columns, block):
            inside = first + column < columns
            values = tl.load(start + first + column, mask=inside, other=0.0).to(wide)
            distance += tl.where(inside, _capped(values, softcap, capped) - m, 0.0)
        value = (1.0 - label_smoothing) * value + label_smoothing * (t - tl.sum(distance) / columns)
    value += z_loss * (m + t) * (m + t)
    value = tl.where(known, value, float("nan"))
    tl.store(loss + row, tl.where(label == ignore_index, 0.0, value))
    tl.store(stats + 2 * row, m)
    tl.store(stats + 2 * row + 1, t)


@triton.jit
def gradient_kernel(
    logits,
    labels,
    stats,
    upstream,
    gradient,
    columns,
    row_stride,
    gradient_stride,
    upstream_stride,
    ignore_index,
    label_smoothing,
    z_loss,
    softcap,
    capped: tl.constexpr,
    block: tl.constexpr,
    wide: tl.constexpr,
):
    """Gradient of one row a program; `gradient` may be `logits`."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    m = tl.load(stats + 2 * row)
    t = tl.load(stats + 2 * row + 1)
    factor = tl.load(upstream + row * upstream_stride).to(wide)
    factor = tl.where(label == ignore_index, 0.0, factor)
    start = logits + row * tl.cast(row_stride, tl.int64)
    target = gradient + row * tl.cast(gradient_stride, tl.int64)
    column = tl.arange(0, block)
    for first in range(0, columns, block):
        inside = first + column < columns
        values = tl.load(start + first + column, mask=inside, other=0.0).to(wide)
        values = _capped(values, softcap, capped)
        share = tl.exp(values - m - t)
        # The target leaves the share before anything small is added: p - 1 keeps its digits.
        slope = share - tl.where(first + column == label, 1.0 - label_smoothing, 0.0)
        slope += share * (2.0 * z_loss * (m + t)) - label_smoothing / columns
        if capped:
            slope *= 1.0 - (values / softcap) * (values / softcap)
        tl.store(target + first + column, factor * slope, mask=inside)


def launch_forward(
    logits: Tensor, labels: Tensor, terms: Terms, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Losses `(N,)`, and m and t `(N, 2)`; rows may lie apart, columns may not."""
    wide = sum_dtype(logits.dtype)
    loss = torch.empty(logits.shape[0], dtype=wide, device=logits.device)
    stats = torch.empty(logits.shape[0], 2, dtype=wide, device=logits.device)
    if logits.shape[0]:
        forward_kernel[(logits.shape[0],)](
            *(logits, labels.contiguous(), loss, stats, logits.shape[1], logits.stride(0)),
            *(ignore_index, *astuple(terms)),
            smooth=terms.label_smoothing > 0,
            **_options(logits, terms),
        )
    return loss, stats


def launch_gradient(
    logits: Tensor,
    labels: Tensor,
    stats: Tensor,
    upstream: Tensor,
    gradient: Tensor,
    terms: Terms,
    ignore_index: int,
) -> None:
    """Write the gradient of the logits to `gradient`, which may be `logits` itself."""
    if logits.shape[0]:
        gradient_kernel[(logits.shape[0],)](
            *(logits, labels.contiguous(), stats, upstream, gradient, logits.shape[1]),
            *(logits.stride(0), gradient.stride(0), upstream.stride(0)),
            *(ignore_index, *astuple(terms)),
            **_options(logits, terms),
        )


def _options(logits: Tensor, terms: Terms) -> dict[str, object]:
    block = min(triton.next_power_of_2(logits.shape[1]), ROW_BLOCK)
    wide = arithmetic(logits.dtype)
    return {"capped": terms.softcap > 0, "block": block, "wide": wide, "num_warps": 8}


@torch.library.custom_op("finetune::cross_entropy", mutates_args=())
def _forward(
    logits: Tensor, labels: Tensor, ignore_index: int, terms: Sequence[float], overwrite: bool
) -> tuple[Tensor, Tensor]:
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    return launch_forward(logits, labels, Terms(*terms), ignore_index)


@_forward.register_fake
def _(logits: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty(logits.shape[0], dtype=sum_dtype(logits.dtype))
    return loss, loss.new_empty(logits.shape[0], 2)


@torch.library.custom_op("finetune::cross_entropy_backward", mutates_args=())
def _backward(
    upstream: Tensor,
    logits: Tensor,
    labels: Tensor,
    stats: Tensor,
    ignore_index: int,
    terms: Sequence[float],
) -> Tensor:
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    launch_gradient(logits, labels, stats, upstream, gradient, Terms(*terms), ignore_index)
    return gradient


@_backward.register_fake
def _(upstream: Tensor, logits: Tensor, *_: object) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


@torch.library.custom_op("finetune::cross_entropy_backward_", mutates_args=("logits",))
def _backward_in_place(
    upstream: Tensor,
    logits: Tensor,
    labels: Tensor,
    stats: Tensor,
    ignore_index: int,
    terms: Sequence[float],
) -> None:
    launch_gradient(logits, labels, stats, upstream, logits, Terms(*terms), ignore_index)


@_backward_in_place.register_fake
def _(*_: object) -> None:
    return None


def _save(ctx, inputs, output) -> None:
    logits, labels, *ctx.options, ctx.overwrite = inputs
    ctx.save_for_backward(logits, labels, output[1])


def _differentiate(ctx, upstream, _):
    logits, labels, stats = ctx.saved_tensors
    nothing = (None,) * 4
    if ctx.overwrite and logits.stride(1) == 1:
        torch.ops.finetune.cross_entropy_backward_(upstream, logits, labels, stats, *ctx.options)
        return logits, *nothing
    backward = torch.ops.finetune.cross_entropy_backward
    return backward(upstream, logits, labels, stats, *ctx.options), *nothing


_forward.register_autograd(_differentiate, setup_context=_save)
