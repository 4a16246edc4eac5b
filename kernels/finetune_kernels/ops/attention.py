r"""Causal attention over packed documents, without the scores in memory (Dao 2023, arXiv 2307.08691).

For query i and key j of one document, with p_i = i + keys - queries, the position of the query:
Forward:    s_ij = scale * q_i k_j  for j <= p_i (and p_i - j < window),  L_i = log(sum_j exp(s_ij)),
            P_ij = exp(s_ij - L_i),   o_i = sum_j P_ij v_j
Backward:   D_i = do_i o_i,  dv_j = sum_i P_ij do_i,  dS_ij = P_ij (do_i v_j - D_i),
            dq_i = scale * sum_j dS_ij k_j,   dk_j = scale * sum_i dS_ij q_i

Only o and L are kept, L as the highest score and the logarithm of the sum, for large scores leave no digits
for the latter. dQ has a kernel of its own, which makes the scores a second time, instead of being
added to by all programs at once: 7 products instead of 5, and the same bits in every run. Query heads share
the key heads of their group. Bound by matrix products. For models whose image has no flash-attn; called
through `attention`. Bidirectional attention, dropout and soft capping of scores are not built.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import functional

from finetune_kernels.launch import (
    arithmetic,
    generation,
    kernels_run_on,
    same_device,
    sum_dtype,
)
from finetune_kernels.ops.attention_kernels import (
    forward_kernel,
    key_gradient_kernel,
    products_kernel,
    query_gradient_kernel,
)
from finetune_kernels.ops.documents import Documents

MAX_HEAD_SIZE = 256


class Blocks(NamedTuple):
    """Queries and keys that one program works on, its warps, and loads in flight."""

    queries: int
    keys: int
    warps: int
    stages: int


# By the padded size of a head: forward, dQ, dK with dV. All fit the 99 KiB of sm_86, 89 and 120 and spill
# nowhere; `finetune_kernels.ahead_of_time` compiles every one.
_HALF = {
    64: (Blocks(128, 64, 8, 2), Blocks(64, 64, 8, 2), Blocks(32, 64, 4, 3)),
    128: (Blocks(128, 32, 8, 2), Blocks(64, 64, 8, 2), Blocks(32, 64, 8, 2)),
    256: (Blocks(64, 32, 8, 2), Blocks(32, 32, 8, 2), Blocks(32, 32, 8, 1)),
}
# Sums lie in tensor memory there: the assembler gives fewer registers, of which smaller blocks spill some.
_HALF_FORWARD_ON_SM_100 = {64: Blocks(128, 128, 8, 2), 128: Blocks(128, 64, 8, 2)}
_SINGLE = {
    64: (Blocks(32, 32, 4, 2), Blocks(16, 32, 4, 1), Blocks(32, 32, 4, 1)),
    128: (Blocks(16, 32, 4, 1), Blocks(16, 16, 8, 1), Blocks(16, 16, 8, 1)),
    256: (Blocks(32, 16, 8, 1), Blocks(16, 16, 8, 1), Blocks(16, 16, 8, 1)),
}


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents,
    key_documents: Documents | None = None,
    *,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Causal attention of each query over the keys of its document up to its own position.

    Args:
        q: `(T, Hq, D)`, D at most 256; T and Hq may have any strides.
        k: `(S, Hk, D)`, Hk a divisor of Hq; S is T unless `key_documents` are given.
        v: As `k`.
        documents: Spans of the queries. Tokens in none of them give 0.
        key_documents: Spans of the keys, when there are more keys than queries: the last query of a
            document stands at its last key. None for the same spans.
        scale: Of the scores; 1 / sqrt(D) by default.
        window: Keys that a query sees at most, itself the last; None for all.

    Returns:
        `(T, Hq, D)`, the dtype of `q`. The same bits in every run, and gradients too.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit.
    """
    _check(q, k, v, documents, key_documents, scale, window)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    keys = documents if key_documents is None else key_documents
    if not kernels_run_on(q):
        return attention_reference(q, k, v, documents, keys, scale=scale, window=window)
    spans = (documents.starts, documents.ends, keys.starts, keys.ends)
    longest = (documents.longest, keys.longest)
    out: Tensor = torch.ops.finetune.attention(q, k, v, *spans, *longest, scale, window or 0)[0]
    return out


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents,
    key_documents: Documents | None = None,
    *,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """The same by PyTorch's own attention, a document at a time: what runs without a GPU."""
    out = torch.zeros_like(q)
    keys = (key_documents or documents).spans()
    for (start, end), (first, last) in zip(documents.spans(), keys, strict=True):
        if start == end:
            continue
        parts = (q[start:end], k[first:last], v[first:last])
        query, key, value = (t.transpose(0, 1)[None] for t in parts)
        mask = _mask(end - start, last - first, window, q.device)
        piece = functional.scaled_dot_product_attention(
            *(query, key, value, mask, 0.0, mask is None), scale=scale, enable_gqa=True
        )
        out[start:end] = piece[0].transpose(0, 1)
    return out


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which keys queries see; None where `is_causal` says it."""
    if queries == keys and (window is None or window >= keys):
        return None
    position = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)
    seen = key <= position
    return seen if window is None else seen & (position - key < window)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents,
    key_documents: Documents | None,
    scale: float | None,
    window: int | None,
) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.dim() != 3 or k.shape != v.shape or k.dim() != 3 or q.shape[2] != k.shape[2]:
        raise ValueError(f"q must be (T, Hq, D), k and v (S, Hk, D), not {shapes}")
    if q.shape[1] % k.shape[1] or q.shape[2] > MAX_HEAD_SIZE:
        raise ValueError(f"Hk must divide Hq, and D be at most {MAX_HEAD_SIZE}: {shapes}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; cast them to one")
    if key_documents is None and q.shape[0] != k.shape[0]:
        raise ValueError(f"with more keys than queries, key_documents are needed: {shapes}")
    if key_documents is not None and key_documents.starts.shape != documents.starts.shape:
        raise ValueError("documents and key_documents must be of one number")
    if scale is not None and scale <= 0:
        raise ValueError(f"scale must be above 0, not {scale}")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, not {window}")
    same_device(q=q, k=k, v=v, documents=documents.starts)


def blocks(size: int, dtype: torch.dtype, generation: int) -> tuple[Blocks, Blocks, Blocks]:
    """What the forward, dQ and dK kernels work on at a time."""
    columns = _columns(size)
    if dtype.itemsize > 2:
        return _SINGLE[columns]
    forward, for_queries, for_keys = _HALF[columns]
    if generation == 10:
        forward = _HALF_FORWARD_ON_SM_100.get(columns, forward)
    return forward, for_queries, for_keys


def _columns(size: int) -> int:
    return max(triton.next_power_of_2(size), 64)


def _options(q: Tensor, chosen: Blocks, window: int) -> dict[str, object]:
    return {
        "windowed": window > 0,
        "size": q.shape[2],
        "columns": _columns(q.shape[2]),
        "query_block": chosen.queries,
        "key_block": chosen.keys,
        "precision": _precision(q),
        "wide": arithmetic(q.dtype),
        "num_warps": chosen.warps,
        "num_stages": chosen.stages,
    }


def _precision(q: Tensor) -> str:
    # float32 on tensor cores in three products; in one, it would be rounded to 10 bits. The parts of wide
    # heads do not fit into registers.
    return "tf32x3" if q.dtype == torch.float32 and q.shape[2] <= 128 else "ieee"


def _dense(*tensors: Tensor) -> list[Tensor]:
    return [t if _is_dense(t) else t.contiguous() for t in tensors]


def _is_dense(x: Tensor) -> bool:
    # Kernels count in 32 bits within a tile of at most 128 tokens.
    return x.stride(2) == 1 and x.stride(1) > 0 and x.stride(0) < 2**24


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for t in tensors for stride in t.stride()[:2]]


@torch.library.custom_op("finetune::attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_starts: Tensor,
    q_ends: Tensor,
    k_starts: Tensor,
    k_ends: Tensor,
    q_longest: int,
    k_longest: int,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor]:
    q, k, v = _dense(q, k, v)
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    stats = torch.empty(q.shape[1], q.shape[0], 2, dtype=sum_dtype(q.dtype), device=q.device)
    chosen = blocks(q.shape[2], q.dtype, generation(q))[0]
    if q.numel() and q_longest:
        forward_kernel[(triton.cdiv(q_longest, chosen.queries), q.shape[1], len(q_starts))](
            *(q, k, v, out, stats, q_starts, q_ends, k_starts, k_ends, *_strides(q, k, v, out)),
            *(q.shape[0], q.shape[1] // k.shape[1], scale, window),
            **_options(q, chosen, window),
        )
    return out, stats


@_forward.register_fake
def _(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    stats = q.new_empty(q.shape[1], q.shape[0], 2, dtype=sum_dtype(q.dtype))
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), stats


@torch.library.custom_op("finetune::attention_backward", mutates_args=())
def _backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    stats: Tensor,
    q_starts: Tensor,
    q_ends: Tensor,
    k_starts: Tensor,
    k_ends: Tensor,
    q_longest: int,
    k_longest: int,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    d_out, q, k, v = _dense(d_out, q, k, v)
    dq, dk, dv = (torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    if not (q.numel() and q_longest):
        return dq, dk, dv
    spans = (q_starts, q_ends, k_starts, k_ends)
    numbers = (q.shape[0], q.shape[1] // k.shape[1], scale, window)
    _, for_queries, for_keys = blocks(q.shape[2], q.dtype, generation(q))
    products = _products(out, d_out, stats)
    query_gradient_kernel[(triton.cdiv(q_longest, for_queries.queries), q.shape[1], len(q_starts))](
        *(q, k, v, d_out, stats, products, dq, *spans, *_strides(q, k, v, d_out, dq), *numbers),
        **_options(q, for_queries, window),
    )
    key_gradient_kernel[(triton.cdiv(k_longest, for_keys.keys), k.shape[1], len(q_starts))](
        *(q, k, v, d_out, stats, products, dk, dv, *spans, *_strides(q, k, v, d_out, dk, dv)),
        *numbers,
        **_options(q, for_keys, window),
    )
    return dq, dk, dv


def _products(out: Tensor, d_out: Tensor, stats: Tensor) -> Tensor:
    products = stats.new_empty(stats.shape[:2])
    products_kernel[(triton.cdiv(out.shape[0], 64), out.shape[1])](
        *(out, d_out, products, *_strides(out, d_out), out.shape[0]),
        size=out.shape[2],
        columns=_columns(out.shape[2]),
        query_block=64,
        wide=arithmetic(out.dtype),
        num_warps=4,
    )
    return products


@_backward.register_fake
def _(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    return dq, dk, dv


def _save(ctx, inputs, output) -> None:
    q, k, v, *spans = inputs[:7]
    ctx.save_for_backward(q, k, v, *output, *spans)
    ctx.numbers = inputs[7:]


def _differentiate(ctx, d_out, _):
    gradients = torch.ops.finetune.attention_backward(d_out, *ctx.saved_tensors, *ctx.numbers)
    return *gradients, *(None,) * 8


_forward.register_autograd(_differentiate, setup_context=_save)
