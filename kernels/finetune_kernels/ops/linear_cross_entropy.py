r"""Head and cross entropy in one operation: the logits of a few rows at a time, never of all.

Forward, for a chunk X of rows that count, weight W:   L = X W^T,  loss += sum(cross_entropy(L)),
            and at once G = dloss/dL written over L,   dX = G W,   dW += G^T X  (float32)
Backward:   the gradients times the upstream scalar; they wait in float32, so they are rounded once

The chunked form of Liger (arXiv 2410.10989), restricted to what makes it exact: the result is a scalar, so
one upstream number scales all gradients; rows are not scaled before they are rounded; the sum over chunks
is float32. Positions with `ignore_index` are gathered away, and a frozen head costs no dW: 4 instead of
6 N H V operations. Bound by matrix products. Called by models through `linear_cross_entropy`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune_kernels.launch import kernels_run_on, sum_dtype
from finetune_kernels.ops.cross_entropy import (
    Terms,
    cross_entropy_reference,
    launch_forward,
    launch_gradient,
    reduce,
)
from finetune_kernels.ops.head import Gradients, Head, check_head, empty_gradients, scaled


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    reduction: str = "mean",
    num_items: Tensor | float | None = None,
    chunk_rows: int = 0,
) -> Tensor:
    """`cross_entropy(hidden @ weight.T + bias, labels)` without the logits in memory.

    Args:
        hidden: `(N, H)`, any floating dtype.
        weight: `(V, H)`, same dtype.
        labels: `(N,)` integers below V, or `ignore_index`.
        bias: `(V,)` or None.
        ignore_index: Positions with this label cost nothing.
        label_smoothing: See `cross_entropy.Terms`.
        z_loss: See `cross_entropy.Terms`.
        softcap: See `cross_entropy.Terms`.
        reduction: `mean` or `sum`. Losses of single rows are those of `linear_log_probs`.
        num_items: For `mean`: what to divide the sum by instead of the rows that count.
        chunk_rows: Rows whose logits exist at a time; 0 chooses by device and vocabulary.

    Returns:
        A float32 scalar (float64 for float64); 0 when no position counts.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or `reduction` is `none`.
    """
    check_head(hidden, weight, bias, labels)
    if reduction == "none":
        raise ValueError("reduction none needs a gradient for each row; use linear_log_probs")
    recorded = torch.is_grad_enabled()
    wanted = [recorded and t is not None and t.requires_grad for t in (hidden, weight, bias)]
    terms = (label_smoothing, z_loss, softcap)
    total: Tensor = torch.ops.finetune.linear_cross_entropy(
        hidden, weight, bias, labels, ignore_index, terms, wanted, chunk_rows
    )[0]
    return reduce(total, labels, ignore_index, reduction, num_items)


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    terms: Terms = Terms(),  # noqa: B008 - frozen
    ignore_index: int = -100,
) -> Tensor:
    """The sum of losses with all logits in memory: oracle of the tests."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return cross_entropy_reference(logits, labels, terms, ignore_index).sum()


def _losses_and_gradient(
    logits: Tensor, labels: Tensor, terms: Terms, ignore_index: int, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Losses of a chunk; its logits are written over with their gradient."""
    if not kernels_run_on(logits):
        return _in_pytorch(logits, labels, terms, gradient)
    loss, stats = launch_forward(logits, labels, terms, ignore_index)
    if gradient:
        launch_gradient(
            logits,
            labels,
            stats,
            stats.new_ones(1).expand(len(labels)),
            logits,
            terms,
            ignore_index,
        )
    return loss, logits


def _in_pytorch(
    logits: Tensor, labels: Tensor, terms: Terms, gradient: bool
) -> tuple[Tensor, Tensor]:
    """The formulas by hand, in place: autograd would keep several copies of the logits."""
    wide = logits.to(sum_dtype(logits.dtype))
    if terms.softcap:
        wide = wide.div(terms.softcap).tanh_().mul_(terms.softcap)
    slope = 1 - (wide / terms.softcap).square() if terms.softcap and gradient else None
    target = labels.unsqueeze(1)
    picked = wide.gather(1, target).squeeze(1)
    logs = torch.log_softmax(wide, -1)
    loss = -logs.gather(1, target).squeeze(1)
    level = picked + loss
    if terms.label_smoothing:
        loss = (1 - terms.label_smoothing) * loss - terms.label_smoothing * logs.mean(-1)
    loss = loss + terms.z_loss * level.square()
    if gradient:
        logits = _gradient(logs, target, level, terms)
        logits = logits if slope is None else logits.mul_(slope)
    return loss, logits


def _gradient(logs: Tensor, target: Tensor, level: Tensor, terms: Terms) -> Tensor:
    shares = logs.exp_()
    own = shares.gather(1, target)
    # The target leaves the share before anything small is added: p - 1 keeps its digits.
    own_slope = own - (1 - terms.label_smoothing)
    if terms.z_loss:
        pull = (2 * terms.z_loss * level).unsqueeze(1)
        own_slope += pull * own
        shares.mul_(1 + pull)
    shares.scatter_(1, target, own_slope)
    return shares.sub_(terms.label_smoothing / shares.shape[1]) if terms.label_smoothing else shares


@torch.library.custom_op("finetune::linear_cross_entropy", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    ignore_index: int,
    terms: Sequence[float],
    wanted: Sequence[bool],
    chunk_rows: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    head = Head.of(hidden, weight, bias, labels, ignore_index)
    gradients = Gradients(head, sum_dtype(hidden.dtype), wanted)
    total = torch.zeros((), dtype=sum_dtype(hidden.dtype), device=hidden.device)
    for chunk, logits in head.chunks(chunk_rows):
        parts = (logits, head.labels[chunk], Terms(*terms), ignore_index)
        loss, slope = _losses_and_gradient(*parts, gradient=any(wanted))
        total += loss.sum()
        if any(wanted):
            gradients.add(chunk, slope.to(hidden.dtype))
    return total, *gradients.outputs(hidden.shape[0])


@_forward.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    ignore_index: int,
    terms: Sequence[float],
    wanted: Sequence[bool],
    chunk_rows: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = sum_dtype(hidden.dtype)
    gradients = empty_gradients(hidden, weight, wide, wanted)
    return hidden.new_empty((), dtype=wide), *gradients


def _save(ctx, inputs, output) -> None:
    # Without this, autograd would make zeros as large as the weight for outputs nobody uses.
    ctx.set_materialize_grads(False)
    ctx.wanted, ctx.dtype = inputs[6], inputs[0].dtype
    ctx.save_for_backward(*output[1:])


def _differentiate(ctx, upstream, *_):
    if upstream is None:
        return (None,) * 8
    hidden, weight, bias = (
        scaled(gradient, upstream, ctx.dtype) if wanted else None
        for gradient, wanted in zip(ctx.saved_tensors, ctx.wanted, strict=True)
    )
    return hidden, weight, bias, *(None,) * 5


_forward.register_autograd(_differentiate, setup_context=_save)
