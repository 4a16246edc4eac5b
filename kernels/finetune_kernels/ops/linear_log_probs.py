r"""Head and log-probabilities of given tokens in one operation, for DPO, KTO, ORPO, PPO and GRPO.

Forward, for a chunk X of rows that count, weight W, temperature T:
            L = X W^T / T,   logp_y = (L_y - m) - t,   with m and t as in `cross_entropy`
Backward, with g the upstream gradient of each row:   L anew,   G = g * ([j = y] - p_j) / T,
            dX = G W,   dW += G^T X  (float32)

Each row has its own upstream gradient, so gradients cannot be taken in the forward pass as in
`linear_cross_entropy`: the logits are computed twice and kept never. The backward pass is exact: no
small probability is left out. Bound by matrix products. Called by models through `linear_log_probs`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune_kernels.launch import kernels_run_on, sum_dtype
from finetune_kernels.ops.cross_entropy import Terms, launch_forward, launch_gradient
from finetune_kernels.ops.head import Gradients, Head, check_head, empty_gradients


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    temperature: float = 1.0,
    softcap: float = 0.0,
    chunk_rows: int = 0,
) -> Tensor:
    """Log-probability of each label under `softmax((hidden @ weight.T + bias) / temperature)`.

    Args:
        hidden: `(N, H)`, any floating dtype.
        weight: `(V, H)`, same dtype.
        labels: `(N,)` integers below V, or `ignore_index`.
        bias: `(V,)` or None.
        ignore_index: Positions with this label cost nothing; their log-probability is 0.
        temperature: Divides the logits, after the softcap.
        softcap: Bound of the logits, see `cross_entropy.Terms`; 0 for none.
        chunk_rows: Rows whose logits exist at a time; 0 chooses by device and vocabulary.

    Returns:
        `(N,)`, float32 (float64 for float64).

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or the temperature is not positive.
    """
    check_head(hidden, weight, bias, labels)
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    logs: Tensor = torch.ops.finetune.linear_log_probs(
        hidden, weight, bias, labels, ignore_index, temperature, softcap, chunk_rows
    )[0]
    return logs


def linear_log_probs_reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    temperature: float = 1.0,
    softcap: float = 0.0,
) -> Tensor:
    """The same with all logits in memory: oracle of the tests."""
    logits = torch.nn.functional.linear(hidden, weight, bias).to(sum_dtype(hidden.dtype))
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    masked = labels == ignore_index
    logs = torch.log_softmax(logits / temperature, -1)
    logs = logs.gather(1, labels.masked_fill(masked, 0).unsqueeze(1)).squeeze(1)
    return logs.masked_fill(masked, 0.0)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature, in the dtype of sums where a division would round them again."""
    return logits if temperature == 1 else logits.to(sum_dtype(logits.dtype)) / temperature


def _capped(logits: Tensor, softcap: float) -> Tensor:
    if not softcap:
        return logits
    return logits.to(sum_dtype(logits.dtype)).div(softcap).tanh_().mul_(softcap)


def _statistics(
    logits: Tensor, labels: Tensor, temperature: float, softcap: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a chunk, and what the backward pass needs to find p again."""
    logits = _scaled(_capped(logits, softcap), temperature)
    if kernels_run_on(logits):
        loss, stats = launch_forward(logits, labels, Terms(), ignore_index)
        return -loss, stats
    wide = logits.to(sum_dtype(logits.dtype))
    picked = wide.gather(1, labels.unsqueeze(1)).squeeze(1)
    highest = wide.amax(-1)
    logs = torch.log_softmax(wide, -1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return logs, torch.stack((highest, picked - highest - logs), -1)


def _gradient(
    logits: Tensor,
    labels: Tensor,
    stats: Tensor,
    upstream: Tensor,
    temperature: float,
    softcap: float,
    ignore_index: int,
) -> Tensor:
    """Gradient of a chunk's logits."""
    capped = _capped(logits, softcap)
    scaled = _scaled(capped, temperature)
    if kernels_run_on(scaled):
        out = scaled if scaled is not capped or not softcap else torch.empty_like(scaled)
        negative = upstream / -temperature
        launch_gradient(scaled, labels, stats, negative, out, Terms(), ignore_index)
    else:
        shares = scaled.to(sum_dtype(scaled.dtype)).sub(stats[:, :1]).sub_(stats[:, 1:]).exp_()
        shares.scatter_add_(1, labels.unsqueeze(1), shares.new_full((len(labels), 1), -1.0))
        out = shares.mul_(upstream.unsqueeze(1) / -temperature)
    return out * (1 - (capped / softcap).square()) if softcap else out


@torch.library.custom_op("finetune::linear_log_probs", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    ignore_index: int,
    temperature: float,
    softcap: float,
    chunk_rows: int,
) -> tuple[Tensor, Tensor]:
    head = Head.of(hidden, weight, bias, labels, ignore_index)
    logs = hidden.new_empty(head.rows.shape[0], dtype=sum_dtype(hidden.dtype))
    stats = logs.new_empty(logs.shape[0], 2)
    for chunk, logits in head.chunks(chunk_rows):
        logs[chunk], stats[chunk] = _statistics(
            logits, head.labels[chunk], temperature, softcap, ignore_index
        )
    return head.spread(logs, hidden.shape[0]), head.spread(stats, hidden.shape[0])


@_forward.register_fake
def _(hidden: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    logs = hidden.new_empty(hidden.shape[0], dtype=sum_dtype(hidden.dtype))
    return logs, logs.new_empty(hidden.shape[0], 2)


@torch.library.custom_op("finetune::linear_log_probs_backward", mutates_args=())
def _backward(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    stats: Tensor,
    ignore_index: int,
    temperature: float,
    softcap: float,
    wanted: Sequence[bool],
    chunk_rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    head = Head.of(hidden, weight, bias, labels, ignore_index)
    gradients = Gradients(head, hidden.dtype, wanted)
    if head.kept is not None:
        upstream, stats = upstream[head.kept], stats[head.kept]
    for chunk, logits in head.chunks(chunk_rows):
        parts = (logits, head.labels[chunk], stats[chunk], upstream[chunk])
        slope = _gradient(*parts, temperature, softcap, ignore_index)
        gradients.add(chunk, slope.to(hidden.dtype))
    return gradients.outputs(hidden.shape[0])


@_backward.register_fake
def _(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    stats: Tensor,
    ignore_index: int,
    temperature: float,
    softcap: float,
    wanted: Sequence[bool],
    chunk_rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_gradients(hidden, weight, hidden.dtype, wanted)


def _save(ctx, inputs, output) -> None:
    hidden, weight, bias, labels, *ctx.options, ctx.chunk_rows = inputs
    ctx.save_for_backward(hidden, weight, bias, labels, output[1])


def _differentiate(ctx, upstream, _):
    hidden, weight, bias, labels, stats = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:3]
    gradients = torch.ops.finetune.linear_log_probs_backward(
        *(upstream, hidden, weight, bias, labels, stats),
        *(*ctx.options, wanted, ctx.chunk_rows),
    )
    found = (g if want else None for g, want in zip(gradients, wanted, strict=True))
    return *found, *(None,) * 5


_forward.register_autograd(_differentiate, setup_context=_save)
