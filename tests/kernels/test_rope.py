"""RoPE of queries and keys, forward and backward, against a float64 truth."""

import sys

import pytest
import torch
import triton.language as tl

from finetune_kernels.ops.rope import _kernel, rope, rope_, rope_reference
from support.kernel_truth import DTYPES, error, run


def table(positions: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = positions.double()[..., None] * 100.0 ** (-torch.arange(size // 2).double() * 2 / size)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def heads(batch: int, q_heads: int, k_heads: int, length: int, size: int, dtype) -> list:
    torch.manual_seed(0)
    # As models make them: (B, S, H, D) turned to (B, H, S, D).
    return [
        torch.randn(batch, length, h, size).to(dtype).transpose(1, 2) for h in (q_heads, k_heads)
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 2), (2, 6, 3, 5, 12), (1, 4, 1, 7, 16)], ids=str)
def test_not_worse_than_pytorch(shape, dtype) -> None:
    q, k = heads(*shape, dtype)
    cos, sin = (t.to(dtype) for t in table(torch.arange(shape[3])[None], shape[4]))
    truth = run(
        lambda a, b: rope_reference(a, b, cos.double(), sin.double()), (q.double(), k.double())
    )
    stock = run(lambda a, b: rope_reference(a, b, cos, sin), (q, k))
    ours = run(lambda a, b: rope(a, b, cos, sin), (q, k))
    for got, theirs, true in zip(ours, stock, truth, strict=True):
        assert got.dtype == dtype
        assert error(got, true) <= error(theirs, true) + torch.finfo(dtype).eps


def test_rotation_by_hand() -> None:
    # A quarter turn: [a, b] becomes [-b, a].
    q = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
    got, _ = rope(q, q, torch.zeros(1, 1, 2), torch.ones(1, 1, 2))
    assert got.flatten().tolist() == [-2.0, 1.0]


def test_position_ids_of_packed_rows() -> None:
    q, k = heads(2, 2, 1, 5, 4, torch.float32)
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])
    cos, sin = (t.float() for t in table(torch.arange(9), 4))
    want = rope_reference(q.double(), k.double(), cos[positions].double(), sin[positions].double())
    for got, true in zip(rope(q, k, cos, sin, positions), want, strict=True):
        assert error(got, true) < 1e-6
    shared = rope(q, k, cos, sin, positions[:1])
    assert error(shared[0][0], want[0][0]) < 1e-6


def test_float64_gradients() -> None:
    q, k = (t.requires_grad_() for t in heads(1, 2, 1, 2, 2, torch.float64))
    cos, sin = table(torch.arange(2)[None], 2)
    assert torch.autograd.gradcheck(lambda a, b: rope(a, b, cos, sin), (q, k))


def test_expanded_gradients_and_strides() -> None:
    q, k = (t.requires_grad_() for t in heads(1, 2, 1, 3, 4, torch.float32))
    cos, sin = (t.float() for t in table(torch.arange(3)[None], 4))
    a, b = rope(q, k, cos, sin)
    assert a.stride() == q.stride()
    (a.sum() + b.sum()).backward()
    ones = torch.ones_like(a)
    assert error(q.grad, rope_reference(ones, ones, cos.double(), -sin.double())[0]) < 1e-6


@pytest.mark.parametrize("interpreted", [True, False])
def test_in_place_touches_q_and_k_only(interpreted, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[rope.__module__], "kernels_run_on", lambda x: interpreted)
    # q, k and v in one buffer, as a fused projection gives them: v must stay.
    fused = torch.randn(1, 3, 4, 6)
    before = fused.clone()
    cos, sin = (t.float() for t in table(torch.arange(3)[None], 6))
    q, k = fused[:, :, :2].transpose(1, 2), fused[:, :, 2:3].transpose(1, 2)
    want = rope_reference(q.double(), k.double(), cos.double(), sin.double())
    rope_(q, k, cos, sin)
    assert error(q, want[0]) < 1e-6
    assert error(k, want[1]) < 1e-6
    assert torch.equal(fused[:, :, 3], before[:, :, 3])


def test_in_place_inside_a_graph_is_refused() -> None:
    q = torch.randn(1, 1, 1, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradient"):
        rope_(q * 1, q * 1, torch.ones(1, 1, 2), torch.ones(1, 1, 2))


def test_offsets_do_not_wrap_at_32_bits() -> None:
    # A batch stride of 2^32 + 4 elements: cut to 32 bits it would be 4, the row of the first batch.

    seen = torch.zeros(16)
    q, cos, sin = torch.randn(16), torch.ones(4), torch.zeros(4)
    far = 2**32 + 4
    _kernel[(1, 1)](
        *(q, q, seen, seen, cos, sin, cos, 1, 2, 1, 1),
        *(far, far, far) * 4,
        *(0, 4, 0),
        indexed=False,
        inverse=False,
        q_block=1,
        k_block=1,
        half_block=2,
        wide=tl.float32,
    )
    assert torch.equal(seen[:4], q[:4])
    assert torch.equal(seen[4:], torch.zeros(12))


def test_registration() -> None:
    q, k = (t.requires_grad_() for t in heads(1, 2, 1, 3, 4, torch.float32))
    cos, sin = (t.float() for t in table(torch.arange(3)[None], 4))
    torch.library.opcheck(torch.ops.finetune.rope.default, (q, k, cos, sin, None, False))


def test_what_does_not_fit_is_refused() -> None:
    q = torch.ones(1, 1, 3, 4)
    with pytest.raises(ValueError, match=r"must be \(B or 1, S, D\)"):
        rope(q, q, torch.ones(1, 2, 4), torch.ones(1, 2, 4))
