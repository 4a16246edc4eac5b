"""RMSNorm in Triton's interpreter, forward and backward, against a float64 truth.

The rule: not worse than PyTorch in the same dtype, plus the dtype's own rounding.
"""

import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from finetune_kernels.ops.rms_norm import _forward_kernel, rms_norm, rms_norm_reference
from support.kernel_truth import DTYPES, error


def run(function, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = function(x, weight, 1e-6)
    y.backward(dy)
    return y.detach(), x.grad, weight.grad


def test_the_kernels_run_interpreted() -> None:
    # Without this, every test below would compare the reference with itself.
    assert isinstance(_forward_kernel, InterpretedFunction)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 64), (30, 33), (4, 1000)], ids=str)
def test_not_worse_than_pytorch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, dy = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    weight = torch.randn(shape[-1]).to(dtype)
    truth = run(rms_norm_reference, x.double(), weight.double(), dy.double())
    stock = run(rms_norm_reference, x, weight, dy)
    ours = run(rms_norm, x, weight, dy)
    for name, got, theirs, true in zip(("y", "dx", "dw"), ours, stock, truth, strict=True):
        assert got.dtype == theirs.dtype
        assert error(got, true) <= error(theirs, true) + torch.finfo(dtype).eps, name


def test_gradients_in_float64() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rms_norm, (x, weight))


def test_the_registration_is_sound() -> None:
    x, weight = torch.randn(4, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    torch.library.opcheck(torch.ops.finetune.rms_norm.default, (x, weight, 1e-6))


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_extreme_scales(scale: float) -> None:
    x, weight = torch.randn(4, 64) * scale, torch.ones(64)
    truth = rms_norm_reference(x.double(), weight.double())
    assert error(rms_norm(x, weight), truth) < 1e-6


def test_strided_rows_and_expanded_gradients() -> None:
    base = torch.randn(6, 16)
    x = base.t()[:8].t().contiguous()[::2]
    assert not x.is_contiguous()
    weight = torch.randn(8)
    dy = torch.ones(1).expand(3, 8)
    truth = run(rms_norm_reference, x.double(), weight.double(), dy.double())
    for got, true in zip(run(rms_norm, x, weight, dy), truth, strict=True):
        assert error(got, true) < 1e-6


def test_nothing_is_written_beside_the_rows() -> None:
    # Rows of 5 in a block of 8: an unmasked store would reach into the next row or past the end.
    x, canary = torch.randn(2, 5), torch.full((4, 5), 7.0)
    r = torch.full((4,), 7.0)
    launch = {"block": 8, "wide": tl.float32}
    _forward_kernel[(2,)](x, torch.ones(5), canary[1:3], r[1:3], 5, 1e-6, **launch)
    assert error(canary[1:3], rms_norm_reference(x.double(), torch.ones(5).double())) < 1e-6
    assert torch.equal(canary[[0, 3]], torch.full((2, 5), 7.0))
    assert torch.equal(r[[0, 3]], torch.full((2,), 7.0))


def test_no_rows() -> None:
    assert rms_norm(torch.empty(0, 8), torch.ones(8)).shape == (0, 8)


def test_a_weight_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight must be \(8,\)"):
        rms_norm(torch.ones(2, 8), torch.ones(4))
