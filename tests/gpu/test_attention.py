"""Attention on the device: the same bits in every run, sizes of heads, windows, caches, padding."""

import pytest
import torch

from finetune_kernels.ops import Documents, attention
from finetune_kernels.ops.attention import attention_reference
from support.kernel_cases import Place
from support.kernel_truth import assert_not_worse, run


def problem(place: Place, tokens: int, heads: int, size: int, keys: int = 0) -> list[torch.Tensor]:
    shapes = (tokens, 2 * heads, size), (keys or tokens, heads, size), (keys or tokens, heads, size)
    return [place.normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def documents(device: str, *lengths: int) -> Documents:
    ends = torch.tensor([0, *lengths], device=device).cumsum(0)
    return Documents.packed(ends, max(lengths))


def hold(inputs: list[torch.Tensor], *spans: Documents, **options) -> None:
    assert_not_worse(
        lambda *x: attention(*x, *spans, **options),
        lambda *x: attention_reference(*x, *spans, **options),
        inputs,
    )


def test_the_same_bits_in_every_run(device, rehearsal) -> None:
    tokens, runs = (70, 2) if rehearsal else (4096, 10)
    inputs = problem(Place(torch.bfloat16, device), tokens, 1 if rehearsal else 8, 128)
    spans = documents(device, tokens - tokens // 3, tokens // 3)
    first = run(lambda *x: attention(*x, spans), inputs)
    for _ in range(runs - 1):
        again = run(lambda *x: attention(*x, spans), inputs)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("size", [16, 64, 80, 96, 128, 256])
def test_sizes_of_heads(size, device, rehearsal) -> None:
    tokens = 20 if rehearsal else 777
    inputs = problem(Place(torch.bfloat16, device), tokens, 2, size)
    hold(inputs, documents(device, tokens - 9, 9))


@pytest.mark.parametrize("window", [1, 64, 65, 200])
def test_windows(window, device, rehearsal) -> None:
    tokens = 70 if rehearsal else 777
    inputs = problem(Place(torch.float16, device), tokens, 1, 64)
    if window == 1:  # the only key is the query's own: v comes out, and scores have no gradient
        out = run(lambda *x: attention(*x, documents(device, tokens), window=1), inputs)[0]
        assert torch.equal(out, inputs[2].repeat_interleave(2, dim=1))
    else:
        hold(inputs, documents(device, tokens), window=window)


def test_more_keys_than_queries(device, rehearsal) -> None:
    queries = documents(device, 1, 5, 20)
    keys = documents(device, 9, 5, 90) if rehearsal else documents(device, 900, 5, 2000)
    inputs = problem(Place(torch.bfloat16, device), 26, 1, 64, int(keys.ends[-1]))
    hold(inputs, queries, keys)


def test_padding_gives_zero_and_is_not_seen(device) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]], device=device)
    q, k, v = problem(Place(torch.bfloat16, device), 15, 1, 64)
    hidden = mask.flatten() == 0
    k[hidden] = v[hidden] = float("nan")
    for result in run(lambda *x: attention(*x, Documents.padded(mask)), (q, k, v)):
        assert bool(result.isfinite().all())
        assert bool((result[hidden] == 0).all())
