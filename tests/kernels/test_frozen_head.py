"""Log-probabilities and entropies under a head without gradient, against float64 and torch.distributions."""

import pytest
import torch
from torch.distributions import Categorical

from finetune_kernels.ops.frozen_head import frozen_log_probs
from finetune_kernels.ops.linear_log_probs import linear_log_probs_reference
from support.kernel_truth import DTYPES, assert_not_worse

SCALES = [{}, {"temperature": 0.7}, {"temperature": 1.3, "softcap": 4.0}]


def problem(dtype: torch.dtype, rows: int = 13) -> tuple:
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, 16), torch.randn(37, 16) / 4
    labels = torch.randint(37, (rows,))
    return hidden.to(dtype), weight.to(dtype), labels, torch.randn(37).to(dtype)


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_not_worse_than_pytorch(dtype, scale) -> None:
    hidden, weight, labels, bias = problem(dtype)

    def ours(x):
        return frozen_log_probs(x, weight, labels, bias, chunk_rows=4, **scale).log_probs

    def stock(x):
        given = (weight.to(x.dtype), labels, bias.to(x.dtype))
        return linear_log_probs_reference(x, *given, **scale)

    # The gradient is rounded when it is a direction, and again when it is scaled.
    assert_not_worse(ours, stock, (hidden,))


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_float64_gradients(scale) -> None:
    hidden, weight, labels, bias = problem(torch.float64, rows=4)
    assert torch.autograd.gradcheck(
        lambda x: frozen_log_probs(x, weight, labels, bias, chunk_rows=3, **scale).log_probs,
        [hidden.requires_grad_()],
    )


def test_confident_and_shifted_logits() -> None:
    # One word all but certain, and all logits far from zero: 1 - p is small, and exp must not overflow.
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    hidden = torch.tensor([[1e4, 1e4 - 12], [40.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 2])
    found = frozen_log_probs(hidden, weight, labels, entropies=True)
    wide = hidden.detach().double().requires_grad_()
    truth = linear_log_probs_reference(wide, weight.double(), labels)
    found.log_probs.sum().backward()
    truth.sum().backward()
    assert torch.allclose(found.log_probs.double(), truth, rtol=1e-5)
    assert torch.allclose(hidden.grad.double(), wide.grad, rtol=1e-3)
    assert found.entropies.isfinite().all()


def test_entropies() -> None:
    hidden, weight, labels, bias = problem(torch.float32)
    found = frozen_log_probs(
        hidden.requires_grad_(), weight, labels, bias, temperature=0.7, entropies=True, chunk_rows=5
    )
    truth = Categorical(logits=(hidden @ weight.t() + bias).double() / 0.7).entropy()
    assert torch.allclose(found.entropies.double(), truth, atol=1e-5)
    assert not found.entropies.requires_grad
    assert frozen_log_probs(hidden, weight, labels).entropies is None


def test_opcheck() -> None:
    hidden, weight, labels, bias = problem(torch.float32, rows=5)
    operation = torch.ops.finetune.frozen_log_probs
    for extras in (True, False):
        given = (hidden.clone().requires_grad_(extras), weight, bias, labels)
        torch.library.opcheck(operation, (*given, 0.7, 0.0, extras, extras, 2))


def test_a_head_with_gradient_is_refused() -> None:
    hidden, weight, labels, _ = problem(torch.float32)
    with pytest.raises(ValueError, match="linear_log_probs"):
        frozen_log_probs(hidden, weight.requires_grad_(), labels)
