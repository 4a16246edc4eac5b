"""Attention over packed documents, forward and backward, against a float64 truth with whole scores."""

import sys

import pytest
import torch
from torch import Tensor

from finetune_kernels.ops.attention import attention, attention_reference
from finetune_kernels.ops.documents import Documents
from support.kernel_truth import DTYPES, assert_not_worse, error, run, widened

# The package gives the function this name; here is its module.
operation = sys.modules[attention.__module__]


def truth(
    q: Tensor, k: Tensor, v: Tensor, spans, key_spans=None, scale=None, window=None
) -> Tensor:
    """Softmax of whole score matrices, written from the definition and unlike the kernels."""
    out = torch.zeros_like(q)
    for (start, end), (first, last) in zip(spans, key_spans or spans, strict=True):
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            scores = q[start:end, head] @ k[first:last, group].T * (scale or q.shape[2] ** -0.5)
            position = torch.arange(end - start)[:, None] + (last - first) - (end - start)
            key = torch.arange(last - first)[None]
            hidden = (key > position) | (key <= position - (window or 10**9))
            shares = scores.masked_fill(hidden, float("-inf")).float().softmax(-1)
            if q.dtype == torch.float64:
                shares = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            out[start:end, head] = shares.to(q.dtype) @ v[first:last, group]
    return out


def documents(*lengths: int) -> Documents:
    return Documents.packed(torch.tensor([0, *lengths]).cumsum(0), max(lengths))


def problem(tokens: int, heads: int, groups: int, size: int, dtype=torch.float32, keys: int = 0):
    torch.manual_seed(0)
    shapes = (tokens, heads, size), (keys or tokens, groups, size), (keys or tokens, groups, size)
    return [torch.randn(shape).to(dtype) for shape in shapes]


def hold(inputs, spans: Documents, **options) -> None:
    assert_not_worse(
        lambda *x: attention(*x, spans, **options),
        lambda *x: truth(*x, spans.spans(), **options),
        inputs,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 80], ids=str)
def test_not_worse_than_pytorch(size, dtype) -> None:
    hold(problem(73, 2, 1, size, dtype), documents(66, 7))


@pytest.mark.parametrize("size", [16, 96, 128, 256])
def test_other_head_sizes(size) -> None:
    hold(problem(37, 1, 1, size, torch.bfloat16), documents(37))


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (3, 1)])
def test_query_heads_share_key_heads(heads, groups) -> None:
    hold(problem(9, heads, groups, 16), documents(9))


@pytest.mark.parametrize("window", [2, 64, 65, 1000])
def test_windows(window) -> None:
    hold(problem(130, 1, 1, 16), documents(130), window=window)


@pytest.mark.parametrize("lengths", [(2,), (3, 8, 1), (0, 5, 0, 0, 3, 0), (64, 65, 1)])
def test_lengths(lengths) -> None:
    hold(problem(sum(lengths), 1, 1, 16), documents(*lengths))


def test_a_window_of_one_sees_itself() -> None:
    q, k, v = problem(70, 1, 1, 16)
    assert error(attention(q, k, v, documents(70), window=1), v.double()) < 1e-6


def test_a_scale_of_ones_own() -> None:
    hold(problem(20, 1, 1, 16), documents(20), scale=0.3)


def test_confident_scores() -> None:
    # Scores of thousands, whose last digit moves a share by 1e-4: the backward pass makes them a second
    # time, in another order. Gradients of scores are differences of equal numbers, held against those.
    q, k, v = problem(40, 1, 1, 16)
    q, k = q * 30, k * 30
    out, dq, dk, dv = run(lambda *x: attention(*x, documents(40)), (q, k, v))
    true = run(lambda *x: truth(*x, [(0, 40)]), widened((q, k, v)))
    stock = run(lambda *x: truth(*x, [(0, 40)]), (q, k, v))
    assert error(out, true[0]) <= 2 * error(stock[0], true[0])
    assert error(dv, true[3]) < 5e-4
    assert (dq - true[1]).norm() < 1e-4 * k.norm()
    assert (dk - true[2]).norm() < 1e-4 * q.norm()


def test_more_keys_than_queries() -> None:
    # What was generated already stays in the cache: the last query stands at the last key.
    queries, keys = documents(1, 5, 20), documents(9, 5, 90)
    inputs = problem(26, 1, 1, 16, keys=104)
    for window in (None, 7):
        assert_not_worse(
            lambda *x, w=window: attention(*x, queries, keys, window=w),
            lambda *x, w=window: truth(*x, queries.spans(), keys.spans(), window=w),
            inputs,
        )


def test_gradients_in_float64(monkeypatch) -> None:
    monkeypatch.setattr(operation, "blocks", lambda *_: (operation.Blocks(16, 16, 4, 1),) * 3)
    leaves = [t.double().requires_grad_() for t in problem(4, 2, 1, 2)]
    spans = documents(3, 1)
    for function in (attention, attention_reference):
        for window in (None, 2):
            call = lambda *x, f=function, w=window: f(*x, spans, window=w)  # noqa: E731
            assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


def test_the_reference_is_the_definition() -> None:
    inputs = problem(20, 4, 2, 8, torch.float64)
    spans = documents(11, 0, 9)
    for window in (None, 3):
        got = run(lambda *x, w=window: attention_reference(*x, spans, window=w), inputs)
        want = run(lambda *x, w=window: truth(*x, spans.spans(), window=w), inputs)
        assert all(error(a, b) < 1e-12 for a, b in zip(got, want, strict=True))


def test_documents_do_not_see_each_other() -> None:
    q, k, v = problem(50, 1, 1, 16)
    spans = documents(20, 30)
    before = run(lambda *x: attention(*x, spans), (q, k, v))
    k[:20], v[:20] = float("nan"), float("nan")
    after = run(lambda *x: attention(*x, spans), (q, k, v))
    assert all(torch.equal(a[20:], b[20:]) for a, b in zip(before, after, strict=True))


def test_padding_gives_zero_and_is_not_seen() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    spans = Documents.padded(mask)
    assert spans.spans() == [(2, 5), (5, 9), (10, 10), (15, 20)]
    q, k, v = problem(20, 1, 1, 16)
    hidden = mask.flatten() == 0
    k[hidden] = v[hidden] = float("nan")
    out, *gradients = run(lambda *x: attention(*x, spans), (q, k, v))
    for result in (out, *gradients):
        assert result.isfinite().all()
        assert torch.equal(result[hidden], torch.zeros_like(result[hidden]))
    assert error(out[2:5], truth(*(t[2:5].double() for t in (q, k, v)), [(0, 3)])) < 1e-6


def test_nothing_is_written_outside_the_documents() -> None:
    # Rows beside the documents, and heads of 5 in blocks of 64: an unmasked store would reach them.
    q, k, v = problem(12, 2, 1, 5)
    spans = Documents(torch.tensor([3]), torch.tensor([8]), 5)
    canary = torch.full((12, 2, 8), 7.0)
    options = operation._options(q, operation.Blocks(16, 16, 4, 1), 0)
    stats = torch.full((2, 12, 2), 7.0)
    operation.forward_kernel[(1, 2, 1)](
        *(q, k, v, canary, stats, *(spans.starts, spans.ends) * 2),
        *operation._strides(q, k, v, canary),
        *(12, 2, 0.5, 0),
        **options,
    )
    assert torch.equal(canary[:, :, 5:], torch.full((12, 2, 3), 7.0))
    assert canary[:3].eq(7).all()
    assert canary[8:].eq(7).all()
    assert stats[:, 8:].eq(7).all()
    assert stats[:, :3].eq(7).all()
    assert error(canary[3:8, :, :5], truth(*widened((q, k, v)), [(3, 8)], scale=0.5)[3:8]) < 1e-6


def test_any_strides_and_expanded_gradients() -> None:
    q, k, v = problem(20, 2, 1, 16)
    spans = documents(20)
    want = run(lambda *x: attention(*x, spans), (q, k, v))
    views = [t.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in (q, k, v)]
    assert torch.equal(attention(*views, spans), want[0])
    attention(*views, spans).sum().backward()
    true = [t.double().requires_grad_() for t in (q, k, v)]
    truth(*true, spans.spans()).sum().backward()
    assert all(error(a.grad, b.grad) < 2e-6 for a, b in zip(views, true, strict=True))


def test_the_same_bits_in_every_run() -> None:
    inputs = problem(20, 2, 1, 16, torch.bfloat16)
    first, second = (run(lambda *x: attention(*x, documents(12, 8)), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_registration() -> None:
    q, k, v = (t.requires_grad_() for t in problem(6, 2, 1, 16))
    spans = documents(4, 2)
    ends = (spans.starts, spans.ends)
    torch.library.opcheck(
        torch.ops.finetune.attention.default, (q, k, v, *ends, *ends, 4, 4, 0.25, 0)
    )


def test_documents_from_positions() -> None:
    spans = Documents.from_positions(torch.tensor([0, 1, 2, 0, 0, 1]))
    assert spans.spans() == [(0, 3), (3, 4), (4, 6)]
    assert spans.longest == 3
    assert Documents.rows(2, 4).spans() == [(0, 4), (4, 8)]


def test_no_tokens() -> None:
    empty = torch.empty(0, 2, 16)
    assert attention(empty, empty, empty, Documents.rows(0, 4)).shape == (0, 2, 16)


def test_what_does_not_fit_is_refused() -> None:
    q, k, v = problem(4, 3, 2, 16)
    spans = documents(4)
    with pytest.raises(ValueError, match="Hk must divide"):
        attention(q, k, v, spans)
    with pytest.raises(ValueError, match="key_documents"):
        attention(q[:2], k[:, :1], v[:, :1], spans)
    with pytest.raises(ValueError, match="cast them"):
        attention(q, k[:, :1].half(), v[:, :1], spans)
    with pytest.raises(ValueError, match="window"):
        attention(q, k[:, :1], v[:, :1], spans, window=0)
