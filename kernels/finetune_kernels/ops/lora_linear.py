r"""Linear layers with low-rank adapters (Hu et al. 2021, arXiv 2106.09685), gradients written by hand.

Layers i that read one input x of N rows, W_i frozen, s_i the adapter's scale (rank-stabilised or not):

Forward:    t = x A^T  with all A_i stacked,     y_i = x W_i^T + b_i + s_i t_i B_i^T
Backward:   u_i = s_i dy_i B_i,   dB_i = s_i dy_i^T t_i,   dA = u^T x,   dx = sum_i dy_i W_i + u A

x is read once for all adapters, forward and backward, and kept once; adapters add in place to what the
frozen layers gave. A 4-bit W is dequantised once a pass. It goes into a buffer whose last columns hold
s B: then [x, t] [W, s B]^T is the whole layer in one product, without another trip over y. That is done
where the outputs are wider than the input, whose copy it needs.
Called by the patched layers of a model. Dropout is not supported; `projection` has the products.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finetune_kernels.ops.projection import (
    Adapter,
    Projection,
    Projections,
    adapter_gradients,
    forward,
    input_gradient,
    rank_gradient,
    trained,
)


def lora_linear(x: Tensor, projection: Projection) -> Tensor:
    """One layer; see `lora_linears`."""
    return lora_linears(x, (projection,))[0]


def lora_linears(x: Tensor, projections: Projections) -> tuple[Tensor, ...]:
    """All layers that read `x`: queries, keys and values, or gate and up.

    Under autocast everything is computed in autocast's dtype, otherwise in that of `x`, which weights
    and adapters must have.

    Args:
        x: `(..., in)`.
        projections: Layers of the same input width.

    Returns:
        `(..., out)` of each.

    Raises:
        ValueError: The widths or dtypes do not fit.
    """
    x = to_compute_dtype(x)
    check(x, projections)
    rows = x.reshape(-1, x.shape[-1])
    outputs: tuple[Tensor, ...] = _Linears.apply(rows, tuple(projections), *trained(projections))
    return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in outputs)


def lora_linears_reference(x: Tensor, projections: Projections) -> tuple[Tensor, ...]:
    """The same by autograd of plain PyTorch, as PEFT computes it: oracle of the tests."""
    outputs = []
    for p in projections:
        y = functional.linear(x, p.dense(x.dtype), p.bias)
        if p.adapter:
            t = functional.linear(x, p.adapter.a)
            y = y + functional.linear(t, p.adapter.b) * p.adapter.scaling
        outputs.append(y)
    return tuple(outputs)


def to_compute_dtype(x: Tensor) -> Tensor:
    """`x` in the dtype that autocast asks for, if it is on."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def check(x: Tensor, projections: Projections) -> None:
    """Refuse layers that do not fit `x`.

    Raises:
        ValueError: Says which width or dtype is wrong.
    """
    autocast = torch.is_autocast_enabled(x.device.type)
    for p in projections:
        if p.shape[1] != x.shape[-1]:
            raise ValueError(f"a layer of {p.shape[1]} inputs does not fit x {tuple(x.shape)}")
        parts = [*trained((p,)), None if p.state else p.weight]
        odd = [t.dtype for t in parts if t is not None and t.dtype != x.dtype]
        if odd and not autocast:
            raise ValueError(f"x is {x.dtype} and a weight or adapter {odd[0]}; cast one of them")


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, projections: Projections, *_: Tensor | None
    ) -> tuple[Tensor, ...]:
        outputs, x, t = forward(rows, projections)
        save(ctx, projections, x, t)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        projections, (x, t) = restore(ctx)
        u = rank_gradient(gradients, projections)
        needed = ctx.needs_input_grad[0]
        dx = input_gradient(gradients, projections, u) if needed else None
        return dx, None, *adapter_gradients(gradients, x, t, u, projections)


def save(ctx: Any, projections: Projections, *tensors: Tensor | None) -> None:
    """Keep these tensors and the layers, whose weights may be resharded until the backward pass."""
    ctx.layers = [(p.adapter.scaling if p.adapter else None, p.state) for p in projections]
    weights = [t for p in projections for t in (p.weight, *trained((p,)))]
    ctx.save_for_backward(*tensors, *weights)


def restore(ctx: Any) -> tuple[list[Projection], list[Any]]:
    """The layers, without their biases, and the tensors that `save` kept."""
    count = 3 * len(ctx.layers)
    saved = ctx.saved_tensors  # once: checkpointed layers give each tensor out one time
    tensors, weights = saved[:-count], saved[-count:]
    projections = []
    for index, (scaling, state) in enumerate(ctx.layers):
        weight, a, b = weights[3 * index : 3 * index + 3]
        adapter = None if scaling is None else Adapter(a, b, scaling)
        projections.append(Projection(weight, None, adapter, state))
    return projections, list(tensors)
