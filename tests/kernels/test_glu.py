"""SwiGLU and GeGLU, forward and backward, in place and not, against a float64 truth."""

import pytest
import torch

from finetune_kernels.ops.glu import ACTIVATIONS, gated, gated_reference, glu_backward_
from support.kernel_truth import DTYPES, assert_not_worse, error, run


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_not_worse_than_pytorch(dtype, activation, overwrite) -> None:
    torch.manual_seed(0)
    for shape in ((1,), (3, 341), (2, 3, 5)):
        inputs = [3 * torch.randn(shape).to(dtype) for _ in range(2)]
        assert_not_worse(
            # A product before it, because a leaf may not be written over.
            lambda g, u: gated(g * 1, u * 1, activation, overwrite=overwrite),
            lambda g, u: gated_reference(g, u, activation),
            inputs,
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float64_gradients(activation) -> None:
    x, y = (torch.randn(2, 9, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda g, u: gated(g, u, activation), (x, y))
    assert torch.autograd.gradcheck(lambda g, u: gated_reference(g, u, activation), (x, y))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_values_neither_overflow_nor_vanish(activation) -> None:
    gate = torch.tensor([-200.0, -30.0, -1e-6, 0.0, 1e-6, 30.0, 200.0])
    up = torch.ones(7)
    got, dgate, _ = run(lambda g, u: gated(g, u, activation), (gate, up))
    truth, slope, _ = run(
        lambda g, u: gated_reference(g, u, activation), (gate.double(), up.double())
    )
    assert torch.isfinite(got).all()
    assert torch.isfinite(dgate).all()
    assert torch.allclose(got.double(), truth, rtol=1e-6, atol=1e-12)
    assert torch.allclose(dgate.double(), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("interpreted", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_pass_in_place_gives_h_and_both_gradients(activation, interpreted, monkeypatch) -> None:
    monkeypatch.setattr("finetune_kernels.ops.glu.kernels_run_on", lambda x: interpreted)
    torch.manual_seed(0)
    dh, gate, up = (torch.randn(2, 700) for _ in range(3))
    leaves = [t.double().requires_grad_() for t in (gate, up)]
    h = gated_reference(*leaves, activation)
    h.backward(dh.double())
    glu_backward_(dh, gate, up, activation)
    for got, want in ((dh, h.detach()), (gate, leaves[0].grad), (up, leaves[1].grad)):
        assert error(got, want) < 1e-6


def test_a_second_backward_pass_over_written_gradients_is_refused() -> None:
    gate, up = (torch.randn(4, requires_grad=True) for _ in range(2))
    h = gated(gate * 1, up * 1, "silu", overwrite=True)
    h.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        h.sum().backward()


def test_a_shared_upstream_gradient_stays_whole() -> None:
    gate, up, other = (torch.randn(8, requires_grad=True) for _ in range(3))
    (gated(gate * 1, up * 1, "silu", overwrite=True) + other).backward(upstream := torch.randn(8))
    assert torch.equal(other.grad, upstream)


def test_layouts_and_expanded_gradients() -> None:
    base = torch.randn(6, 8)
    inputs = (base.t()[::2], torch.randn(1, 6).expand(4, 6))
    leaves = [t.detach().requires_grad_() for t in inputs]
    gated(*leaves, "silu").sum().backward()
    true = [t.detach().double().requires_grad_() for t in inputs]
    gated_reference(*true, "silu").sum().backward()
    for got, want in zip(leaves, true, strict=True):
        assert error(got.grad, want.grad) < 1e-6


def test_nothing_is_written_past_the_end() -> None:
    canary = torch.full((3, 700), 7.0)
    dh, gate, up = (torch.full((3, 700), 7.0) for _ in range(3))
    glu_backward_(dh[:2], gate[:2], up[:2], "silu")
    for t in (dh, gate, up):
        assert torch.equal(t[2], canary[2])


def test_registration() -> None:
    g, u = (torch.randn(2, 8, requires_grad=True) for _ in range(2))
    torch.library.opcheck(torch.ops.finetune.glu.default, (g, u, "silu", False))
    free = [t.detach().clone() for t in (g, u, g)]
    torch.library.opcheck(torch.ops.finetune.glu_backward_.default, (*free, "silu"))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        gated(torch.ones(2), torch.ones(3), "silu")
    with pytest.raises(ValueError, match="activation is one of"):
        gated(torch.ones(2), torch.ones(2), "relu")
