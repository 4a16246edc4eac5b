"""LoRA blocks against plain autograd: exact gradients, and not worse than PyTorch in each dtype."""

import bitsandbytes.functional as stock
import pytest
import torch

from finetune_kernels.ops.glu import ACTIVATIONS
from finetune_kernels.ops.lora_linear import lora_linear, lora_linears, lora_linears_reference
from finetune_kernels.ops.lora_mlp import lora_mlp, lora_mlp_reference
from finetune_kernels.ops.projection import Adapter, Projection
from support.kernel_truth import DTYPES, assert_not_worse, error

# Queries with a bias, keys without an adapter, values of another rank.
QKV = ((12, 8, 2, True), (6, 8, 0, False), (6, 8, 3, False))
MLP = ((20, 8, 2, False), (20, 8, 2, True), (8, 20, 3, True))


def layers(kinds: tuple, dtype: torch.dtype) -> tuple[list[Projection], list[torch.Tensor]]:
    """Projections, and the trained matrices in them."""
    torch.manual_seed(0)
    projections, matrices = [], []
    for outputs, inputs, rank, bias in kinds:
        weight = torch.randn(outputs, inputs).to(dtype)
        shift = torch.randn(outputs).to(dtype) if bias else None
        pair = [torch.randn(rank, inputs).to(dtype), torch.randn(outputs, rank).to(dtype)]
        adapter = Adapter(*pair, 0.75) if rank else None
        projections.append(Projection(weight, shift, adapter))
        matrices += pair if rank else []
    return projections, matrices


def rebuilt(projections: list[Projection], matrices: tuple[torch.Tensor, ...]) -> list[Projection]:
    """The same layers with these matrices, in their dtype."""
    rest, built = iter(matrices), []
    for p in projections:
        adapter = Adapter(next(rest), next(rest), 0.75) if p.adapter else None
        dtype = matrices[0].dtype
        bias = None if p.bias is None else p.bias.to(dtype)
        weight = p.weight if p.state else p.weight.to(dtype)
        built.append(Projection(weight, bias, adapter, p.state))
    return built


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linears_not_worse_than_pytorch(dtype) -> None:
    projections, matrices = layers(QKV, dtype)
    inputs = [torch.randn(2, 5, 8).to(dtype), *matrices]
    assert_not_worse(
        lambda x, *m: lora_linears(x, rebuilt(projections, m)),
        lambda x, *m: lora_linears_reference(x, rebuilt(projections, m)),
        inputs,
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mlp_not_worse_than_pytorch(dtype, activation) -> None:
    projections, matrices = layers(MLP, dtype)
    inputs = [torch.randn(3, 8).to(dtype) / 4, *(m / 4 for m in matrices)]
    assert_not_worse(
        lambda x, *m: lora_mlp(x, *rebuilt(projections, m), activation),
        lambda x, *m: lora_mlp_reference(x, *rebuilt(projections, m), activation),
        inputs,
    )


def test_float64_gradients() -> None:
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    for kinds, block in (
        (QKV, lora_linears),
        (MLP, lambda x, p: lora_mlp(x, *p, overwrite=False)),
    ):
        projections, matrices = layers(kinds, torch.float64)
        leaves = [m.requires_grad_() for m in matrices]
        assert torch.autograd.gradcheck(
            lambda x, *m, p=projections, f=block: f(x, rebuilt(p, m)), (x, *leaves)
        )


def in_four_bits(dtype: torch.dtype) -> tuple[list[Projection], list[torch.Tensor]]:
    projections, matrices = layers(
        ((96, 64, 2, True), (32, 64, 0, False), (96, 64, 4, False)), dtype
    )
    quantised = []
    for p in projections:
        packed, state = stock.quantize_4bit(p.weight, compress_statistics=True, quant_type="nf4")
        quantised.append(Projection(packed, p.bias, p.adapter, state))
    return quantised, matrices


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_four_bit_weights_folded_with_b_or_not(dtype, folded, monkeypatch) -> None:
    monkeypatch.setattr("finetune_kernels.ops.projection._folds", lambda *_: folded)
    projections, matrices = in_four_bits(dtype)
    inputs = [torch.randn(3, 64).to(dtype), *matrices]
    truth = [Projection(p.dense(dtype), p.bias, p.adapter) for p in projections]
    assert_not_worse(
        lambda x, *m: lora_linears(x, rebuilt(projections, m)),
        lambda x, *m: lora_linears_reference(x, rebuilt(truth, m)),
        inputs,
    )


def test_a_frozen_input_and_expanded_gradients() -> None:
    projections, matrices = layers(QKV[:1], torch.float32)
    leaves = [m.requires_grad_() for m in matrices]
    x = torch.randn(3, 8)
    lora_linear(x, rebuilt(projections, tuple(leaves))[0]).sum().backward()
    want = torch.autograd.grad(
        lora_linears_reference(x, rebuilt(projections, tuple(leaves)))[0].sum(), leaves
    )
    for leaf, gradient in zip(leaves, want, strict=True):
        assert error(leaf.grad, gradient.double()) < 1e-6


def test_the_mlp_keeps_half_of_what_autograd_keeps() -> None:
    projections, matrices = layers(
        ((512, 8, 2, False), (512, 8, 2, False), (8, 512, 2, False)), torch.float32
    )
    built = rebuilt(projections, tuple(m.requires_grad_() for m in matrices))
    x = torch.randn(64, 8, requires_grad=True)

    def kept(block) -> int:
        seen: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: seen.update({t.data_ptr(): t.numel()}) or t, lambda t: t
        ):
            block(x, *built)
        return sum(n for n in seen.values() if n >= 64 * 512)

    assert kept(lora_mlp) == 2 * 64 * 512
    assert kept(lora_mlp_reference) == 4 * 64 * 512


def test_a_second_backward_pass_of_the_mlp_is_refused() -> None:
    projections, matrices = layers(MLP, torch.float32)
    y = lora_mlp(
        torch.randn(2, 8), *rebuilt(projections, tuple(m.requires_grad_() for m in matrices))
    )
    y.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.sum().backward()


def test_what_does_not_fit_is_refused() -> None:
    projections, _ = layers(QKV, torch.float32)
    with pytest.raises(ValueError, match="8 inputs does not fit x"):
        lora_linears(torch.ones(2, 7), projections)
    with pytest.raises(
        ValueError, match=r"x is torch.float16 and a weight or adapter torch.float32"
    ):
        lora_linears(torch.ones(2, 8).half(), projections)
    with pytest.raises(ValueError, match="do not fit"):
        lora_mlp(torch.ones(2, 8), *projections)
