r"""Rotary position embedding of queries and keys in one launch (Su et al. 2021, arXiv 2104.09864).

For a head x = [a, b] of two halves, with c = cos and s = sin of the token's position:
Forward:    [a * c - b * s,  b * c + a * s]
Backward:   the same with -s

The rows of cos and sin follow from position ids, so packed sequences, whose positions start anew, need
nothing else. Halves are rotated against each other, as in transformers; interleaved pairs are not
supported. Bound by memory: 2 trips over q and k. Called by models through `rope`; `rope_` writes over
q and k, for callers who own them (generation, hand-written autograd).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from finetune_kernels.launch import arithmetic, kernels_run_on, same_device


def rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by their positions.

    Args:
        q: `(B, Hq, S, D)`, D even; a transposed view is fine, the result keeps its strides.
        k: `(B, Hk, S, D)`.
        cos: `(B or 1, S, D)`, a row for each token; with `position_ids` a table `(P, D)`. Its halves
            are equal, as every model of this kind makes them; the first one is read.
        sin: As `cos`.
        position_ids: `(B or 1, S)` rows of the table, each below P.

    Returns:
        Rotated q and k.

    Raises:
        ValueError: The shapes or devices do not fit.
    """
    cos, sin = _token_rows(q, k, cos, sin, position_ids)
    if not kernels_run_on(q):
        return rope_reference(q, k, cos, sin, position_ids)
    q, k = torch.ops.finetune.rope(q, k, cos, sin, position_ids, False)
    return q, k


def rope_(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None = None
) -> None:
    """`rope`, written over q and k, unknown to autograd; for the arguments see there.

    Raises:
        ValueError: As `rope`, or the elements of a head do not lie side by side.
        RuntimeError: q or k are part of a graph, whose gradients would be wrong.
    """
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        raise RuntimeError("rope_ has no gradient; call rope, or wrap the call in torch.no_grad()")
    cos, sin = _token_rows(q, k, cos, sin, position_ids)
    if q.stride(-1) != 1 or k.stride(-1) != 1:
        raise ValueError("the last dimension of q and k must have stride 1 to be written over")
    if kernels_run_on(q):
        torch.ops.finetune.rope_(q, k, cos, sin, position_ids, False)
    else:
        for x, rotated in zip((q, k), rope_reference(q, k, cos, sin, position_ids), strict=True):
            x.copy_(rotated)


def rope_reference(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch: oracle of the tests, and what runs without a GPU."""
    if position_ids is not None:
        cos, sin = cos[position_ids], sin[position_ids]
    cos, sin = cos.unsqueeze(1).to(q.dtype), sin.unsqueeze(1).to(q.dtype)
    return q * cos + _turned(q) * sin, k * cos + _turned(k) * sin


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _token_rows(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Check the shapes; cos and sin with a row for each token, or with P rows."""
    batch, _, length, size = q.shape
    if size % 2 or k.shape != (batch, k.shape[1], length, size):
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in more than heads")
    same_device(q=q, k=k, cos=cos, sin=sin)
    want = "(P, D)" if position_ids is not None else "(B or 1, S, D)"
    rows = cos.shape[:-1]
    fits = len(rows) == 1 if position_ids is not None else rows in ((batch, length), (1, length))
    if cos.shape != sin.shape or cos.shape[-1] != size or not fits:
        raise ValueError(
            f"cos {tuple(cos.shape)} and sin {tuple(sin.shape)} must be {want}; q is {tuple(q.shape)}"
        )
    if position_ids is None:
        return cos.expand(batch, length, size), sin.expand(batch, length, size)
    same_device(q=q, position_ids=position_ids)
    return cos, sin


@triton.jit
def _rotate(
    source,
    target,
    heads,
    half,
    source_head,
    target_head,
    cosine,
    sine,
    head_block: tl.constexpr,
    half_block: tl.constexpr,
    wide: tl.constexpr,
):
    head = tl.arange(0, head_block)[:, None].to(tl.int64)
    column = tl.arange(0, half_block)[None, :]
    inside = (head < heads) & (column < half)
    start = source + head * source_head + column
    first = tl.load(start, mask=inside, other=0.0).to(wide)
    second = tl.load(start + half, mask=inside, other=0.0).to(wide)
    start = target + head * target_head + column
    tl.store(start, first * cosine - second * sine, mask=inside)
    tl.store(start + half, second * cosine + first * sine, mask=inside)


@triton.jit
def _kernel(
    q,
    k,
    q_out,
    k_out,
    cos,
    sin,
    positions,
    length,
    half,
    q_heads,
    k_heads,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    q_out_batch,
    q_out_head,
    q_out_token,
    k_out_batch,
    k_out_head,
    k_out_token,
    cos_batch,
    cos_token,
    positions_batch,
    indexed: tl.constexpr,
    inverse: tl.constexpr,
    q_block: tl.constexpr,
    k_block: tl.constexpr,
    half_block: tl.constexpr,
    wide: tl.constexpr,
):
    # All offsets in 64 bits: a batch's stride alone may pass 2^31.
    batch = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0).to(tl.int64)
    if indexed:
        row = tl.load(positions + batch * positions_batch + token).to(tl.int64) * cos_token
    else:
        row = batch * cos_batch + token * cos_token
    column = tl.arange(0, half_block)
    cosine = tl.load(cos + row + column, mask=column < half, other=0.0).to(wide)[None, :]
    sine = tl.load(sin + row + column, mask=column < half, other=0.0).to(wide)[None, :]
    if inverse:
        sine = -sine
    _rotate(
        q + batch * q_batch + token * q_token,
        q_out + batch * q_out_batch + token * q_out_token,
        q_heads,
        half,
        q_head,
        q_out_head,
        cosine,
        sine,
        q_block,
        half_block,
        wide,
    )
    _rotate(
        k + batch * k_batch + token * k_token,
        k_out + batch * k_out_batch + token * k_out_token,
        k_heads,
        half,
        k_head,
        k_out_head,
        cosine,
        sine,
        k_block,
        half_block,
        wide,
    )


def _launch(
    q: Tensor,
    k: Tensor,
    q_out: Tensor,
    k_out: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    inverse: bool,
) -> None:
    batch, heads, length, size = q.shape
    if not q.numel():
        return
    # Sine may lie otherwise than cosine; one set of strides serves both.
    cos, sin = (t if t.stride(-1) == 1 else t.contiguous() for t in (cos, sin))
    if cos.stride() != sin.stride():
        cos, sin = cos.contiguous(), sin.contiguous()
    indexed = positions is not None
    rows = positions.expand(batch, length) if positions is not None else cos
    rows = rows if not indexed or rows.stride(-1) == 1 else rows.contiguous()
    _kernel[(length, batch)](
        *(q, k, q_out, k_out, cos, sin, rows, length, size // 2, heads, k.shape[1]),
        *(stride for x in (q, k, q_out, k_out) for stride in x.stride()[:3]),
        *(0 if indexed else cos.stride(0), cos.stride(-2), rows.stride(0)),
        indexed=indexed,
        inverse=inverse,
        q_block=triton.next_power_of_2(heads),
        k_block=triton.next_power_of_2(k.shape[1]),
        half_block=triton.next_power_of_2(size // 2),
        wide=arithmetic(q.dtype),
        num_warps=4,
    )


def _side_by_side(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


@torch.library.custom_op("finetune::rope", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, inverse: bool
) -> tuple[Tensor, Tensor]:
    q, k = _side_by_side(q), _side_by_side(k)
    # Where elements overlap (an expanded gradient), `empty_like` makes a dense tensor.
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    _launch(q, k, q_out, k_out, cos, sin, positions, inverse)
    return q_out, k_out


@_forward.register_fake
def _(q: Tensor, k: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(_side_by_side(q)), torch.empty_like(_side_by_side(k))


@torch.library.custom_op("finetune::rope_", mutates_args=("q", "k"))
def _in_place(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, inverse: bool
) -> None:
    _launch(q, k, q, k, cos, sin, positions, inverse)


@_in_place.register_fake
def _(*_: object) -> None:
    return None


def _save(ctx, inputs, output) -> None:
    _, _, cos, sin, positions, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin, positions)


def _differentiate(ctx, dq, dk):
    return *torch.ops.finetune.rope(dq, dk, *ctx.saved_tensors, not ctx.inverse), *(None,) * 4


_forward.register_autograd(_differentiate, setup_context=_save)
