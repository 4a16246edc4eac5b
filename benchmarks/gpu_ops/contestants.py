"""Who is compared: ours, eager PyTorch, torch.compile of it, and Liger and flash-attn where installed."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional

from support.kernel_cases import CASES, Place, Problem, Sizes, documents, labels_of, rotations
from support.kernel_truth import Operation

# `rope_` is the kernel of `rope` without a graph.
NAMES = tuple(name for name in CASES if name != "rope_")


def contestants(name: str, problem: Problem, sizes: Sizes, place: Place) -> dict[str, Operation]:
    """Functions of the problem's inputs; eager PyTorch first, for the others are held against it."""
    eager = sdpa(sizes) if name == "attention" else problem.stock
    torch.compiler.reset()
    # The rehearsal only follows the graph: compiling it for a CPU would need a compiler and minutes.
    backend = "eager" if place.device == "cpu" else "inductor"
    found = {
        "eager": eager,
        "ours": problem.ours,
        "compiled": torch.compile(eager, backend=backend, dynamic=False),
    }
    if find_spec("liger_kernel") and place.device != "cpu":
        liger = _liger(sizes, place).get(name)
        found |= {"liger": liger} if liger else {}
    if find_spec("flash_attn") and place.device != "cpu" and name == "attention":
        found["flash"] = _flash(sizes, place)
    return found


def sdpa(sizes: Sizes) -> Operation:
    """PyTorch's attention over rows of equal length, which is its best case."""

    def rows(x: Tensor) -> Tensor:
        return x.reshape(sizes.documents, -1, *x.shape[1:]).transpose(1, 2)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = functional.scaled_dot_product_attention(
            *(rows(q), rows(k), rows(v)), is_causal=True, enable_gqa=True
        )
        return out.transpose(1, 2).reshape(q.shape)

    return attend


def _flash(sizes: Sizes, place: Place) -> Operation:
    from flash_attn import flash_attn_varlen_func

    spans = documents(sizes, place)
    edges = torch.cat((spans.starts[:1], spans.ends)).to(torch.int32)
    ends, longest = (edges, edges), (spans.longest, spans.longest)
    return lambda q, k, v: flash_attn_varlen_func(q, k, v, *ends, *longest, causal=True)


def _liger(sizes: Sizes, place: Place) -> dict[str, Operation]:
    from liger_kernel.transformers import functional as liger

    labels = labels_of(sizes, place)
    cos, sin = rotations(sizes, place)
    found: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
        "rms_norm": lambda x, w: liger.liger_rms_norm(x, w, 1e-6),
        "layer_norm": lambda x, w, b: liger.liger_layer_norm(x, w, b, 1e-5),
        "swiglu": liger.liger_swiglu,
        "geglu": liger.liger_geglu,
        "rope": lambda q, k: liger.liger_rope(q, k, cos, sin),
        "cross_entropy": lambda x: liger.liger_cross_entropy(x, labels, reduction="none"),
        "linear_cross_entropy": lambda x, w: liger.liger_fused_linear_cross_entropy(
            x, w, labels, reduction="sum"
        ),
    }
    if hasattr(liger, "liger_fused_add_rms_norm"):
        found["add_rms_norm"] = lambda x, r, w: liger.liger_fused_add_rms_norm(x, r, w, 1e-6)
    return found
