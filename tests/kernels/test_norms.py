"""LayerNorm and residual + RMSNorm, forward and backward, against a float64 truth."""

import pytest
import torch
import triton.language as tl

from finetune_kernels.ops import rows
from finetune_kernels.ops.add_rms_norm import add_rms_norm, add_rms_norm_reference
from finetune_kernels.ops.layer_norm import _forward_kernel as layer_norm_kernel
from finetune_kernels.ops.layer_norm import layer_norm, layer_norm_reference
from support.kernel_truth import DTYPES, assert_not_worse, error, run, widened

SHAPES = [(1, 1), (3, 7), (2, 5, 64), (2, 500)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer_norm(shape, dtype) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(s).to(dtype) for s in (shape, shape[-1:], shape[-1:])]
    assert_not_worse(layer_norm, layer_norm_reference, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_rms_norm(shape, dtype) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(s).to(dtype) for s in (shape, shape, shape[-1:])]
    assert_not_worse(add_rms_norm, add_rms_norm_reference, inputs)


def test_more_rows_than_programs(monkeypatch) -> None:
    # Programs of the backward pass walk over several rows each, the last one over fewer.
    monkeypatch.setattr(rows, "BACKWARD_PROGRAMS", 3)
    inputs = [torch.randn(s) for s in ((8, 9), (8, 9), (9,))]
    assert_not_worse(add_rms_norm, add_rms_norm_reference, inputs)
    assert_not_worse(layer_norm, layer_norm_reference, [inputs[0], inputs[2], inputs[2]])


def test_float64_gradients() -> None:
    torch.manual_seed(0)
    x, residual = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for operation in (layer_norm, layer_norm_reference):
        assert torch.autograd.gradcheck(operation, (x, weight, bias))
    for operation in (add_rms_norm, add_rms_norm_reference):
        assert torch.autograd.gradcheck(operation, (x, residual, weight))


def test_a_large_mean_does_not_cancel() -> None:
    x = torch.randn(4, 64) + 1000.0
    truth = layer_norm_reference(*widened((x, torch.ones(64), torch.zeros(64))))
    assert error(layer_norm(x, torch.ones(64), torch.zeros(64)), truth) < 1e-4


def test_strided_inputs_and_expanded_gradients() -> None:
    torch.manual_seed(0)
    x, residual = torch.randn(8, 6).t()[::2], torch.randn(1, 8).expand(3, 8)
    weight = torch.randn(16)[::2]
    for operation, inputs in (
        (layer_norm, (x, weight, weight)),
        (add_rms_norm, (x, residual, weight)),
    ):
        leaves = [t.detach().requires_grad_() for t in inputs]
        y = operation(*leaves)
        (y if isinstance(y, torch.Tensor) else y[0] + y[1]).sum().backward()
        reference = layer_norm_reference if operation is layer_norm else add_rms_norm_reference
        true = [t.detach().double().requires_grad_() for t in inputs]
        y = reference(*true)
        (y if isinstance(y, torch.Tensor) else y[0] + y[1]).sum().backward()
        for got, want in zip(leaves, true, strict=True):
            assert (got.grad.double() - want.grad).norm() <= 2e-6 * (1 + want.grad.norm())


def test_only_the_sum_is_used() -> None:
    # The residual stream alone: the gradient of the normalised value is absent, not garbage.
    x, residual = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4)
    add_rms_norm(x, residual, torch.ones(4))[1].sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 4))


def test_nothing_is_written_beside_the_rows() -> None:
    x, canary, stats = torch.randn(2, 5), torch.full((4, 5), 7.0), torch.full((4,), 7.0)
    layer_norm_kernel[(2,)](
        *(x, torch.ones(5), torch.zeros(5), canary[1:3], stats[1:3], stats[1:3].clone(), 5, 1e-5),
        block=8,
        wide=tl.float32,
    )
    assert torch.equal(canary[[0, 3]], torch.full((2, 5), 7.0))
    assert torch.equal(stats[[0, 3]], torch.full((2,), 7.0))


def test_registration() -> None:
    x, w = torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    torch.library.opcheck(torch.ops.finetune.layer_norm.default, (x, w, w.detach(), 1e-5))
    torch.library.opcheck(torch.ops.finetune.add_rms_norm.default, (x, x.detach(), w, 1e-5))


def test_no_rows() -> None:
    empty = torch.empty(0, 8)
    assert layer_norm(empty, torch.ones(8), torch.ones(8)).shape == (0, 8)
    assert run(add_rms_norm, (empty, empty, torch.ones(8)))[-1].eq(0).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="bias must be"):
        layer_norm(torch.ones(2, 8), torch.ones(8), torch.ones(4))
    with pytest.raises(ValueError, match="residual"):
        add_rms_norm(torch.ones(2, 8), torch.ones(2, 4), torch.ones(8))
