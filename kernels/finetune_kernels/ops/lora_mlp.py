r"""A gated MLP with low-rank adapters in one step of autograd (arXiv 2106.09685 and 2002.05202).

Forward:    g, u = the two layers that read x (`lora_linears`),   h = f(g) * u,   y = the layer that reads h
Backward:   dh from the last layer; h, dg and du are written over dh, g and u; dx from the first two

Kept are x, g and u and the products of rank r, where plain autograd also keeps f(g) and h: half of the
MLP's activations. Called by the patched MLPs of a model. Dropout is not supported.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finetune_kernels.launch import kernels_run_on
from finetune_kernels.ops.glu import gated, gated_reference, glu_backward_
from finetune_kernels.ops.lora_linear import (
    check,
    lora_linears_reference,
    restore,
    save,
    to_compute_dtype,
)
from finetune_kernels.ops.projection import (
    Projection,
    Projections,
    adapter_gradients,
    forward,
    input_gradient,
    rank_gradient,
    trained,
)


def lora_mlp(
    x: Tensor,
    gate: Projection,
    up: Projection,
    down: Projection,
    activation: str = "silu",
    *,
    overwrite: bool = True,
) -> Tensor:
    """down(f(gate(x)) * up(x)), each layer with an adapter or without.

    Args:
        x: `(..., in)`; dtypes as in `lora_linears`.
        gate: `(hidden, in)`.
        up: `(hidden, in)`.
        down: `(out, hidden)`.
        activation: `silu`, `gelu` or `gelu_tanh`.
        overwrite: Write gradients over what was kept, so that there is one backward pass only; autograd
            refuses a second one. Without it that pass takes a copy.

    Returns:
        `(..., out)`.

    Raises:
        ValueError: The widths or dtypes do not fit.
    """
    x = to_compute_dtype(x)
    check(x, (gate, up))
    if gate.shape != up.shape or down.shape[1] != gate.shape[0]:
        raise ValueError(f"gate {gate.shape}, up {up.shape} and down {down.shape} do not fit")
    rows = x.reshape(-1, x.shape[-1])
    layers = (gate, up, down)
    y: Tensor = _Mlp.apply(rows, layers, activation, overwrite, *trained(layers))
    return y.view(*x.shape[:-1], y.shape[-1])


def lora_mlp_reference(
    x: Tensor, gate: Projection, up: Projection, down: Projection, activation: str = "silu"
) -> Tensor:
    """The same by autograd of plain PyTorch: oracle of the tests."""
    g, u = lora_linears_reference(x, (gate, up))
    return lora_linears_reference(gated_reference(g, u, activation), (down,))[0]


def _hidden(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    if kernels_run_on(gate):
        return gated(gate, up, activation)
    if activation == "silu":
        return functional.silu(gate).mul_(up)
    approximate = "tanh" if activation == "gelu_tanh" else "none"
    return functional.gelu(gate, approximate=approximate).mul_(up)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        layers: Projections,
        activation: str,
        overwrite: bool,
        *_: Tensor | None,
    ) -> Tensor:
        (g, u), x, first = forward(rows, layers[:2])
        (y,), _h, second = forward(_hidden(g, u, activation), layers[2:])
        ctx.activation, ctx.overwrite = activation, overwrite
        save(ctx, layers, x, g, u, first, second)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        layers, (x, g, u, first, second) = restore(ctx)
        if not ctx.overwrite:
            g, u = g.clone(), u.clone()
        outer, inner = layers[2:], layers[:2]
        ranks = rank_gradient((dy,), outer)
        h = input_gradient((dy,), outer, ranks)
        # h, dg and du take the places of dh, g and u, which nobody else has; autograd refuses to read
        # g and u a second time.
        glu_backward_(h, g, u, ctx.activation)
        last = adapter_gradients((dy,), h, second, ranks, outer)
        ranks = rank_gradient((g, u), inner)
        dx = input_gradient((g, u), inner, ranks) if ctx.needs_input_grad[0] else None
        others = adapter_gradients((g, u), x, first, ranks, inner)
        return dx, None, None, None, *others, *last
