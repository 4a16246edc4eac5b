"""Head + cross entropy and head + log-probabilities in chunks, with kernels and without them."""

import sys

import pytest
import torch

from finetune_kernels.ops import head
from finetune_kernels.ops.cross_entropy import Terms
from finetune_kernels.ops.frozen_head import frozen_log_probs
from finetune_kernels.ops.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_reference,
)
from finetune_kernels.ops.linear_log_probs import linear_log_probs, linear_log_probs_reference
from support.kernel_truth import DTYPES, assert_not_worse, error, run

TERMS = [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-2, "softcap": 4.0}]
SCALES = [{}, {"temperature": 0.7}, {"softcap": 4.0}, {"temperature": 1.3, "softcap": 4.0}]


@pytest.fixture(params=["kernels", "pytorch"])
def way(request, monkeypatch) -> str:
    for function in (linear_cross_entropy, linear_log_probs):
        module = sys.modules[function.__module__]
        monkeypatch.setattr(module, "kernels_run_on", lambda x: request.param == "kernels")
    return request.param


def problem(rows: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple:
    torch.manual_seed(0)
    labels = torch.randint(vocabulary, (rows,))
    labels[::3] = -100
    hidden, weight = torch.randn(rows, width), torch.randn(vocabulary, width) / width**0.5
    return hidden.to(dtype), weight.to(dtype), labels, torch.randn(vocabulary).to(dtype)


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cross_entropy_not_worse_than_pytorch(dtype, terms, way) -> None:
    assert_not_worse(
        lambda *x: linear_cross_entropy(*x, reduction="sum", chunk_rows=4, **terms),
        lambda *x: linear_cross_entropy_reference(*x, terms=Terms(**terms)),
        problem(13, 16, 37, dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_gradients_are_rounded_once(dtype, way) -> None:
    # The upstream number is no power of two: a gradient that was rounded before would be rounded again.
    hidden, weight, labels, bias = problem(90, 40, 200, dtype)
    inputs = (hidden, weight, bias)

    def scaled(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 0.3 * linear_cross_entropy_reference(x, w, labels, b)

    true = run(scaled, [x.double() for x in inputs], rounded=dtype)[1:]
    limits = [error(x, t) for x, t in zip(run(scaled, inputs)[1:], true, strict=True)]
    rows, head, shift = leaves = [x.clone().requires_grad_() for x in inputs]
    frozen = frozen_log_probs(rows, weight, labels.clamp_min(0), bias).log_probs
    loss = linear_cross_entropy(rows, head, labels, shift, reduction="sum", chunk_rows=16)
    upstream = 0.3 * torch.randn((), generator=torch.Generator().manual_seed(1)).to(dtype).float()
    got = [
        *torch.autograd.grad(loss, leaves, upstream),
        *torch.autograd.grad(-frozen[labels >= 0].sum(), rows, upstream),
    ]
    for mine, exact, limit in zip(got, (*true, true[0]), (*limits, limits[0]), strict=True):
        assert mine.dtype == dtype
        # One number turned of the bias's two hundred shows more than one of thousands.
        assert error(mine, exact) <= (1.02 if mine.dim() == 1 else 1.01) * limit


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_a_bias_is_added_before_logits_are_rounded(dtype) -> None:
    hidden, weight, labels, bias = problem(90, 40, 200, dtype)
    chunks = head.Head.of(hidden, weight, bias, labels, -100).chunks(60)
    exact = hidden[labels >= 0].double() @ weight.double().t() + bias.double()
    ((_, logits),) = chunks
    assert error(logits, exact) <= 1.01 * error(exact.to(dtype), exact)


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_log_probs_not_worse_than_pytorch(dtype, scale, way) -> None:
    assert_not_worse(
        lambda *x: linear_log_probs(*x, chunk_rows=4, **scale),
        lambda *x: linear_log_probs_reference(*x, **scale),
        problem(13, 16, 37, dtype),
    )


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_float64_gradients_of_cross_entropy(terms, way) -> None:
    hidden, weight, labels, bias = problem(4, 2, 5, torch.float64)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    assert torch.autograd.gradcheck(
        lambda x, w, b: linear_cross_entropy(x, w, labels, b, chunk_rows=2, **terms),
        leaves,
        fast_mode=True,
    )


@pytest.mark.parametrize("scale", SCALES[::3], ids=str)
def test_float64_gradients_of_log_probs(scale, way) -> None:
    hidden, weight, labels, bias = problem(4, 2, 5, torch.float64)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    assert torch.autograd.gradcheck(
        lambda x, w, b: linear_log_probs(x, w, labels, b, chunk_rows=2, **scale),
        leaves,
        fast_mode=True,
    )


def test_many_chunks_sum_the_weight_in_float32(way) -> None:
    # 96 chunks of one row: summed in bfloat16 the gradient of the weight would lose its digits.
    hidden, weight, _, _ = problem(96, 4, 8, torch.bfloat16)
    labels = torch.arange(96) % 8
    truth = run(linear_cross_entropy_reference, (hidden.double(), weight.double(), labels))
    ours = run(
        lambda *x: linear_cross_entropy(*x, reduction="sum", chunk_rows=1), (hidden, weight, labels)
    )
    assert error(ours[2], truth[2]) < 4e-3


def test_a_frozen_head_has_no_weight_gradient(way, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(head, "_add_product", lambda *_: asked.append(1))
    hidden, weight, labels, _ = problem(6, 4, 8, torch.float32)
    hidden.requires_grad_()
    linear_cross_entropy(hidden, weight, labels).backward()
    linear_log_probs(hidden, weight, labels).sum().backward()
    assert not asked
    linear_cross_entropy(hidden, weight.requires_grad_(), labels).backward()
    assert asked


def test_masked_positions_are_not_projected(way) -> None:
    # A hidden state that is no number would spread through any product that it takes part in.
    hidden, weight, labels, _ = problem(7, 4, 8, torch.float32)
    hidden[labels == -100] = float("nan")
    hidden.requires_grad_()
    weight.requires_grad_()
    (
        linear_cross_entropy(hidden, weight, labels)
        + linear_log_probs(hidden, weight, labels).sum()
    ).backward()
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()
    assert torch.equal(hidden.grad[labels == -100], torch.zeros(3, 4))


def test_no_position_counts(way) -> None:
    hidden, weight, labels, _ = problem(3, 4, 8, torch.float32)
    hidden.requires_grad_()
    nothing = torch.full_like(labels, -100)
    loss = linear_cross_entropy(hidden, weight, nothing)
    (loss + linear_log_probs(hidden, weight, nothing).sum()).backward()
    assert loss.item() == 0
    assert torch.equal(hidden.grad, torch.zeros(3, 4))


def test_every_row_has_its_own_upstream_gradient(way) -> None:
    hidden, weight, labels, _ = problem(6, 4, 8, torch.float32)
    hidden.requires_grad_()
    upstream = torch.tensor([0.0, 1.0, -2.0, 5.0, 0.5, 0.0])
    linear_log_probs(hidden, weight, labels).backward(upstream)
    one = torch.zeros(6, 4)
    for row in range(6):
        x = hidden.detach()[row : row + 1].requires_grad_()
        linear_log_probs_reference(x, weight, labels[row : row + 1]).backward(
            upstream[row : row + 1]
        )
        one[row] = x.grad
    assert torch.allclose(hidden.grad, one, atol=1e-6)


def test_a_mean_over_given_items_and_a_loss_scale(way) -> None:
    hidden, weight, labels, _ = problem(6, 4, 8, torch.float32)
    hidden.requires_grad_()
    (1024 * linear_cross_entropy(hidden, weight, labels, num_items=17)).backward()
    true = hidden.detach().double().requires_grad_()
    (1024 / 17 * linear_cross_entropy_reference(true, weight.double(), labels)).backward()
    assert error(hidden.grad, true.grad) < 1e-6


def test_the_logits_are_never_whole(way, monkeypatch) -> None:
    largest = []
    step = head.Head.chunks

    def watched(self, rows):
        for chunk, logits in step(self, rows):
            largest.append(logits.numel())
            yield chunk, logits

    monkeypatch.setattr(head.Head, "chunks", watched)
    hidden, weight, labels, _ = problem(64, 4, 8, torch.float32)
    linear_log_probs(hidden.requires_grad_(), weight, labels, chunk_rows=5).sum().backward()
    assert max(largest) == 5 * 8
    assert sum(largest) == 2 * (labels != -100).sum() * 8


def test_nothing_is_recorded_without_gradients(way) -> None:
    hidden, weight, labels, _ = problem(4, 4, 8, torch.float32)
    hidden.requires_grad_()
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, labels).requires_grad


def test_registration() -> None:
    hidden, weight, labels, bias = problem(4, 4, 8, torch.float32)
    weight = weight.t().contiguous().t()  # gradients have the weight's layout
    leaves = hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), labels
    options = (-100, (0.0, 0.0, 0.0), (True, True, True), 0)
    torch.library.opcheck(torch.ops.finetune.linear_cross_entropy.default, (*leaves, *options))
    options = (-100, 1.0, 0.0, 0)
    torch.library.opcheck(torch.ops.finetune.linear_log_probs.default, (*leaves, *options))


def test_what_does_not_fit_is_refused() -> None:
    hidden, weight, labels, _ = problem(4, 4, 8, torch.float32)
    with pytest.raises(ValueError, match="linear_log_probs"):
        linear_cross_entropy(hidden, weight, labels, reduction="none")
    with pytest.raises(ValueError, match="cast one"):
        linear_log_probs(hidden, weight.half(), labels)
    with pytest.raises(ValueError, match="temperature"):
        linear_log_probs(hidden, weight, labels, temperature=0)
