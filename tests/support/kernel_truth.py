"""Compare an operation with PyTorch's in the same dtype, both held against float64.

The rule: the error of ours, relative in the Frobenius norm, is at most that of PyTorch, plus noise of the
dtype's rounding that few numbers do not average away. A fixed tolerance would pass wrong kernels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

Operation = Callable[..., Tensor | tuple[Tensor, ...]]


def run(
    operation: Operation,
    inputs: Sequence[object],
    seed: int = 1,
    rounded: torch.dtype | None = None,
) -> list[Tensor]:
    """Outputs, then the gradients of all floating inputs, for random upstream gradients.

    The upstream gradients are rounded to a dtype, by default that of the first input. For a truth it must
    be that of what is held against it, or both would seem as wrong as their upstream gradients.
    An operation without a gradient gives its outputs only.
    """
    leaves = [
        x.detach().clone().requires_grad_() if _floating(x) else x  # type: ignore[union-attr]
        for x in inputs
    ]
    outputs = operation(*leaves)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    if not any(y.requires_grad for y in outputs):
        return list(outputs)
    generator = torch.Generator().manual_seed(seed)
    upstream = [
        torch.randn(y.shape, generator=generator).to(rounded or leaves[0].dtype).to(y)
        for y in outputs
    ]
    torch.autograd.backward(outputs, upstream)
    return [y.detach() for y in outputs] + [x.grad for x in leaves if _floating(x)]


def _floating(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def error(got: Tensor, truth: Tensor) -> float:
    return ((got.double() - truth).norm() / truth.norm().clamp_min(1e-30)).item()


def slack(dtype: torch.dtype) -> float:
    """Noise of small problems: half a unit, which is one rounding of the result at its worst.

    Two units in float32, where sums in another order and `exp` of NumPy and of PyTorch differ by one.
    """
    unit = torch.finfo(dtype).eps
    return 2 * unit if dtype == torch.float32 else unit / 2


def widened(inputs: Sequence[object]) -> list[object]:
    return [x.double() if _floating(x) else x for x in inputs]  # type: ignore[attr-defined]


def assert_not_worse(
    ours: Operation,
    stock: Operation,
    inputs: Sequence[object],
    more: float = 0.0,
) -> None:
    """Hold outputs and gradients of `ours` to the rule above; `more` is added to the limit."""
    dtype = next(x.dtype for x in inputs if _floating(x))  # type: ignore[attr-defined]
    truth = run(stock, widened(inputs), rounded=dtype)
    theirs, got = run(stock, inputs), run(ours, inputs)
    assert len(got) == len(theirs)
    for index, (mine, other, true) in enumerate(zip(got, theirs, truth, strict=True)):
        assert mine.dtype == other.dtype, index
        assert mine.shape == other.shape, index
        limit = error(other, true) + slack(dtype) + more
        assert error(mine, true) <= limit, (index, error(mine, true), error(other, true))
