"""Frozen linear layers with low-rank adapters as plain tensors, and the parts of their products.

`lora_linear` and `lora_mlp` put these parts together; formulas and names are explained there. Nothing
here knows PEFT or is known to autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from finetune_kernels.ops.nf4 import QuantState, dequantize_4bit


@dataclass(frozen=True)
class Adapter:
    """y += scaling * x a^T b^T, with a `(r, in)` and b `(out, r)`."""

    a: Tensor
    b: Tensor
    scaling: float


@dataclass(frozen=True)
class Projection:
    """One frozen linear layer, with an adapter or without.

    Attributes:
        weight: `(out, in)`, or the packed bytes of `state`.
        bias: `(out,)` or none.
        adapter: Its trained part.
        state: bitsandbytes' state of a 4-bit weight.
    """

    weight: Tensor
    bias: Tensor | None = None
    adapter: Adapter | None = None
    state: QuantState | None = None

    @property
    def shape(self) -> torch.Size:
        """`(out, in)`."""
        return self.weight.shape if self.state is None else self.state.shape

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight `(out, in)` in this dtype: itself, cast, or dequantised."""
        if self.state is None:
            return self.weight.to(dtype)
        return dequantize_4bit(self.weight, self.state, dtype)


Projections = Sequence[Projection]


def trained(projections: Projections) -> list[Tensor | None]:
    """A and b of each layer, for autograd to see."""
    none = (None, None)
    return [t for p in projections for t in ((p.adapter.a, p.adapter.b) if p.adapter else none)]


def forward(rows: Tensor, projections: Projections) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Outputs of all layers for `(N, in)`; and x and t, which the backward pass needs."""
    a = _stacked(projections, rows.dtype)
    if a is None:
        return [_plain(p, rows) for p in projections], rows, None
    t = rows @ a.t()
    if _folds(projections, rows):
        both = torch.cat((rows, t), dim=1)
        outputs = [
            functional.linear(both, _folded(p, columns, both), _bias(p, rows))
            for p, columns in _columns(projections)
        ]
        return outputs, both[:, : rows.shape[1]], both[:, rows.shape[1] :]
    return [_added(p, rows, t[:, columns]) for p, columns in _columns(projections)], rows, t


def rank_gradient(gradients: Sequence[Tensor], projections: Projections) -> Tensor | None:
    """u, `(N, sum r)`: the gradient of t."""
    parts = [
        (dy @ p.adapter.b.to(dy.dtype)).mul_(p.adapter.scaling)
        for dy, p in zip(gradients, projections, strict=True)
        if p.adapter
    ]
    return _joined(parts, dim=1)


def input_gradient(
    gradients: Sequence[Tensor], projections: Projections, u: Tensor | None
) -> Tensor:
    """dx, summed in place."""
    dtype = gradients[0].dtype
    dx = gradients[0] @ projections[0].dense(dtype)
    for dy, p in zip(gradients[1:], projections[1:], strict=True):
        dx.addmm_(dy, p.dense(dtype))
    a = _stacked(projections, dtype)
    return dx if u is None or a is None else dx.addmm_(u, a)


def adapter_gradients(
    gradients: Sequence[Tensor],
    rows: Tensor,
    t: Tensor | None,
    u: Tensor | None,
    projections: Projections,
) -> list[Tensor | None]:
    """Those of a and b of each layer, in the order of `trained`."""
    if t is None or u is None:
        return [None] * (2 * len(projections))
    da = u.t() @ rows
    found: list[Tensor | None] = []
    for dy, (p, columns) in zip(gradients, _columns(projections), strict=True):
        if p.adapter is None:
            found += [None, None]
            continue
        db = (dy.t() @ t[:, columns]).mul_(p.adapter.scaling)
        found += [da[columns].to(p.adapter.a.dtype), db.to(p.adapter.b.dtype)]
    return found


def _stacked(projections: Projections, dtype: torch.dtype) -> Tensor | None:
    return _joined([p.adapter.a.to(dtype) for p in projections if p.adapter], dim=0)


def _joined(parts: list[Tensor], dim: int) -> Tensor | None:
    return torch.cat(parts, dim=dim) if len(parts) > 1 else parts[0] if parts else None


def _columns(projections: Projections) -> list[tuple[Projection, slice]]:
    """Each layer, and which columns of t are its own."""
    pairs, start = [], 0
    for p in projections:
        width = p.adapter.a.shape[0] if p.adapter else 0
        pairs.append((p, slice(start, start + width)))
        start += width
    return pairs


def _folds(projections: Projections, rows: Tensor) -> bool:
    # Folding writes x once more and saves reading and writing y; only a 4-bit weight goes through a
    # buffer in any case. On CPUs the products rule, and the added columns cost more.
    width = sum(p.shape[0] for p in projections if p.adapter)
    return rows.is_cuda and width > rows.shape[1] and all(p.state for p in projections)


def _folded(p: Projection, columns: slice, both: Tensor) -> Tensor:
    """[W, 0, s B, 0]: zeros where other layers have their columns of t."""
    outputs, inputs = p.shape
    buffer = both.new_empty(outputs, both.shape[1])
    if p.state is None:
        buffer[:, :inputs].copy_(p.weight)
    else:
        dequantize_4bit(p.weight, p.state, both.dtype, out=buffer[:, :inputs])
    buffer[:, inputs:].zero_()
    if p.adapter:
        # The product is rounded once, also where b has more digits than the buffer.
        buffer[:, inputs:][:, columns] = p.adapter.b * p.adapter.scaling
    return buffer


def _plain(p: Projection, rows: Tensor) -> Tensor:
    return functional.linear(rows, p.dense(rows.dtype), _bias(p, rows))


def _added(p: Projection, rows: Tensor, share: Tensor) -> Tensor:
    y = _plain(p, rows)
    if p.adapter is None:
        return y
    return y.addmm_(share, p.adapter.b.to(rows.dtype).t(), alpha=p.adapter.scaling)


def _bias(p: Projection, rows: Tensor) -> Tensor | None:
    return None if p.bias is None else p.bias.to(rows.dtype)
