"""Cross entropy of given logits, every term of it, forward and backward, against a float64 truth."""

import math

import pytest
import torch

from finetune_kernels.ops.cross_entropy import (
    Terms,
    cross_entropy,
    cross_entropy_reference,
    forward_kernel,
    launch_forward,
    launch_gradient,
)
from support.kernel_truth import DTYPES, assert_not_worse, error, run

TERMS = [
    {},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"softcap": 3.0},
    {"label_smoothing": 0.2, "z_loss": 1e-2, "softcap": 5.0},
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_not_worse_than_pytorch(dtype, terms, overwrite) -> None:
    torch.manual_seed(0)
    for rows, vocabulary in ((1, 2), (5, 33), (3, 200)):
        logits = 3 * torch.randn(rows, vocabulary).to(dtype)
        labels = torch.randint(vocabulary, (rows,))
        labels[1:2] = -100
        assert_not_worse(
            lambda x, y: cross_entropy(x * 1, y, reduction="none", overwrite=overwrite, **terms),
            lambda x, y: cross_entropy_reference(x, y, Terms(**terms)),
            (logits, labels),
        )


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_a_vocabulary_wider_than_a_block(terms, monkeypatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules[cross_entropy.__module__], "ROW_BLOCK", 32)
    logits, labels = 3 * torch.randn(4, 103), torch.tensor([0, 31, 32, 102])
    assert_not_worse(
        lambda x, y: cross_entropy(x, y, reduction="none", **terms),
        lambda x, y: cross_entropy_reference(x, y, Terms(**terms)),
        (logits, labels),
    )


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_float64_gradients(terms) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, -100, 4])
    for reduction in ("none", "mean"):
        assert torch.autograd.gradcheck(
            lambda x, how=reduction: cross_entropy(x, labels, reduction=how, **terms),
            logits,
            fast_mode=True,
        )
    assert torch.autograd.gradcheck(
        lambda x: cross_entropy_reference(x, labels, Terms(**terms)), logits
    )


def test_by_hand() -> None:
    # softmax([0, ln 3]) = [1/4, 3/4]; logsumexp = ln 4.
    logits, labels = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([0])
    assert cross_entropy(logits, labels).item() == pytest.approx(math.log(4))
    with_z = cross_entropy(logits, labels, z_loss=0.5).item()
    assert with_z == pytest.approx(math.log(4) + 0.5 * math.log(4) ** 2)
    smooth = cross_entropy(logits, labels, label_smoothing=0.5).item()
    half = (math.log(4) + math.log(4 / 3)) / 2
    assert smooth == pytest.approx(0.5 * math.log(4) + 0.5 * half)


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_logits_far_from_zero(offset) -> None:
    logits = (torch.randn(4, 50) + offset).round(decimals=2)
    labels = torch.arange(4)
    assert_not_worse(
        lambda x, y: cross_entropy(x, y, reduction="none", label_smoothing=0.1),
        lambda x, y: cross_entropy_reference(x, y, Terms(0.1)),
        (logits, labels),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lead", [7.0, 10.0, 14.0])
def test_the_gradient_of_a_confident_row_survives(lead, dtype) -> None:
    # p_y is 0.99 … 0.99999: rounded before the 1 is taken away, p_y - 1 would be wrong or 0.
    logits = torch.zeros(1, 9, dtype=dtype)
    logits[0, 3] = lead
    gradient = run(lambda x: cross_entropy(x, torch.tensor([3]), reduction="sum"), (logits,), 3)[1]
    upstream = torch.randn((), generator=torch.Generator().manual_seed(3)).to(dtype).double()
    share = math.exp(lead) / (math.exp(lead) + 8)
    assert gradient[0, 3].item() == pytest.approx(upstream.item() * (share - 1), rel=0.02)


def test_infinitely_unlikely_tokens() -> None:
    logits = torch.tensor([[0.0, float("-inf"), 1.0]], requires_grad=True)
    cross_entropy(logits, torch.tensor([0])).backward()
    assert logits.grad[0, 1] == 0
    assert torch.isfinite(logits.grad).all()


def test_no_row_counts() -> None:
    logits = torch.randn(3, 8, requires_grad=True)
    loss = cross_entropy(logits, torch.full((3,), -100), z_loss=0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 8))


def test_micro_batches_weigh_by_their_tokens() -> None:
    logits, labels = torch.randn(6, 8), torch.tensor([1, 2, -100, -100, -100, 3])
    parts = sum(cross_entropy(logits[i : i + 3], labels[i : i + 3], num_items=3) for i in (0, 3))
    assert parts.item() == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-6)


def test_a_label_outside_the_vocabulary_is_no_number() -> None:
    assert cross_entropy(torch.randn(1, 8), torch.tensor([8])).isnan()


def test_rows_apart_and_expanded_gradients() -> None:
    wide = torch.randn(4, 12)
    logits = wide[:, :7].requires_grad_()
    labels = torch.tensor([0, 6, -100, 2])
    cross_entropy(logits, labels, reduction="sum").backward()
    true = logits.detach().double().requires_grad_()
    cross_entropy_reference(true, labels, Terms()).sum().backward()
    assert error(logits.grad, true.grad) < 1e-6
    turned = torch.randn(7, 4).t().requires_grad_()
    cross_entropy(turned, labels, overwrite=True).backward()
    assert turned.grad.isfinite().all()


def test_nothing_is_written_beside_the_rows() -> None:
    canary, labels = torch.full((4, 9), 7.0), torch.tensor([0, 4])
    _, stats = launch_forward(logits := torch.randn(2, 5), labels, Terms(), -100)
    launch_gradient(logits, labels, stats, torch.ones(2), canary[1:3, :5], Terms(), -100)
    assert torch.equal(canary[[0, 3]], torch.full((2, 9), 7.0))
    assert torch.equal(canary[:, 5:], torch.full((4, 4), 7.0))
    assert canary[1:3, :5].abs().max() <= 1


def test_offsets_do_not_wrap_at_32_bits() -> None:
    import triton.language as tl

    # Row 1 at a stride of 2^31 + 4 would lie at -2^31 + 4 were the product 32 bits wide. The tensor
    # that is passed ends at that offset from its start, so that the right address is the first row.
    logits, stride = torch.randn(2, 4), 2**32
    loss, stats = torch.zeros(1), torch.zeros(1, 2)
    forward_kernel[(1,)](
        *(logits, torch.tensor([1]), loss, stats, 4, stride, -100, 0.0, 0.0, 0.0),
        smooth=False,
        capped=False,
        block=4,
        wide=tl.float32,
    )
    want = torch.nn.functional.cross_entropy(logits[:1], torch.tensor([1]))
    assert loss.item() == pytest.approx(want.item(), rel=1e-6)


def test_registration() -> None:
    logits, labels = torch.randn(3, 8, requires_grad=True), torch.tensor([0, 7, -100])
    arguments = (logits, labels, -100, (0.1, 0.1, 2.0), False)
    torch.library.opcheck(torch.ops.finetune.cross_entropy.default, arguments)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="logits must be"):
        cross_entropy(torch.ones(2, 8), torch.ones(3).long())
    with pytest.raises(ValueError, match="reduction is"):
        cross_entropy(torch.ones(2, 8), torch.ones(2).long(), reduction="average")
