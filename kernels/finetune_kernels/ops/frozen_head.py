r"""Log-probabilities of given tokens under a head that is not trained: DPO, KTO, PPO, GRPO with adapters.

Forward, for a chunk X of rows, weight W, temperature T:
            L = X W^T / T,   logp_y = (L_y - m) - t,   H = -sum_j p_j ln p_j,   J = ([j = y] - p_j) W / T
Backward, with g the upstream gradient of each row:   dX = g J

A row's gradient is its upstream number times a vector that does not depend on it, so it is taken in the
forward pass: two products where `linear_log_probs`, whose head may be trained, needs three. J is as
large as X, in float32, so that dX is rounded once. The entropies carry no gradient. Called by models
through `frozen_log_probs`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from finetune_kernels.launch import sum_dtype
from finetune_kernels.ops.head import Head, check_head, wide_product


@dataclass(frozen=True)
class TokenFigures:
    """What a head says of tokens; both of shape `(N,)`, float32 (float64 for float64).

    Attributes:
        log_probs: Of the labels.
        entropies: Of the distributions that they are of, in nats, without gradient; None if not asked for.
    """

    log_probs: Tensor
    entropies: Tensor | None


def frozen_log_probs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    temperature: float = 1.0,
    softcap: float = 0.0,
    entropies: bool = False,
    chunk_rows: int = 0,
) -> TokenFigures:
    """Log-probability of each label under `softmax((hidden @ weight.T + bias) / temperature)`.

    Args:
        hidden: `(N, H)`, any floating dtype.
        weight: `(V, H)`, same dtype, without gradient.
        labels: `(N,)` integers below V.
        bias: `(V,)` without gradient, or None.
        temperature: Divides the logits, after the softcap.
        softcap: Bound of the logits, see `cross_entropy.Terms`; 0 for none.
        entropies: Whether to give them too.
        chunk_rows: Rows whose logits exist at a time; 0 chooses by device and vocabulary.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, the temperature is not positive, or the head
            wants a gradient.
    """
    check_head(hidden, weight, bias, labels)
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("the head is trained; take `linear_log_probs`")
    slopes = hidden.requires_grad and torch.is_grad_enabled()
    logs, spread, _ = torch.ops.finetune.frozen_log_probs(
        hidden, weight, bias, labels, temperature, softcap, entropies, slopes, chunk_rows
    )
    return TokenFigures(logs, spread.detach() if entropies else None)


@torch.library.custom_op("finetune::frozen_log_probs", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    temperature: float,
    softcap: float,
    entropies: bool,
    slopes: bool,
    chunk_rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = sum_dtype(hidden.dtype)
    count = hidden.shape[0]
    logs = hidden.new_empty(count, dtype=wide)
    spread = hidden.new_empty(count if entropies else 0, dtype=wide)
    directions = hidden.new_empty(hidden.shape if slopes else (0,), dtype=wide)
    head = Head(hidden.contiguous(), labels, None, weight, bias)
    for chunk, logits in head.chunks(chunk_rows):
        capped = logits.to(wide)
        if softcap:
            capped = softcap * torch.tanh(capped / softcap)
        scaled = capped if temperature == 1 else capped / temperature
        chosen = labels[chunk].unsqueeze(1)
        shares = scaled - scaled.amax(1, keepdim=True)
        picked = shares.gather(1, chosen)
        total = shares.exp_().sum(1, keepdim=True)
        logs[chunk] = (picked - total.log()).squeeze(1)
        shares.div_(total)
        if entropies:
            spread[chunk] = _entropies(scaled, shares)
        if slopes:
            # The label's own [j = y] - p_j is 1 - p_j: added in the dtype of sums, rounded once.
            slope = shares.neg_().scatter_add_(1, chosen, torch.ones_like(picked))
            if softcap:
                slope *= 1 - (capped / softcap).square()
            directions[chunk] = wide_product(slope.div_(temperature).to(hidden.dtype), weight)
    return logs, spread, directions


def _entropies(logits: Tensor, shares: Tensor) -> Tensor:
    """-sum p ln p, with ln p from the logits: p may be 0."""
    return torch.logsumexp(logits, 1) - torch.linalg.vecdot(shares, logits)


@_forward.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    temperature: float,
    softcap: float,
    entropies: bool,
    slopes: bool,
    chunk_rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    logs = hidden.new_empty(hidden.shape[0], dtype=sum_dtype(hidden.dtype))
    spread = logs.new_empty(hidden.shape[0] if entropies else 0)
    return logs, spread, logs.new_empty(hidden.shape if slopes else (0,))


def _save(ctx, inputs, output) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(output[2])
    ctx.mark_non_differentiable(output[1], output[2])


def _differentiate(ctx, upstream, *_):
    (directions,) = ctx.saved_tensors
    return (upstream.unsqueeze(1) * directions).to(ctx.dtype), *(None,) * 8


_forward.register_autograd(_differentiate, setup_context=_save)
