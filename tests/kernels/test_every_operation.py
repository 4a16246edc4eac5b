"""What every operation must stand, or why it need not: memory beside its tensors, offsets, layouts, masks.

A new operation is in `support.kernel_cases`, and so in every table here. Errors against float64 in each dtype
are in the operations' own tests.
"""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from finetune_kernels.launch import refuse_old
from finetune_kernels.ops import Documents
from finetune_kernels.ops.attention import _dense
from support import kernel_cases, kernel_watch
from support.kernel_cases import CASES, Place, Problem, Sizes
from support.kernel_truth import Operation, assert_not_worse, run
from support.kernel_watch import guarded, narrow_offsets

# No dimension is what a block divides.
SIZES = Sizes(7, 26, 37, 53, 4, 2, 18, 3)
# Every kernel has several programs, of blocks as of rows.
SEVERAL = Sizes(70, 26, 83, 53, 2, 1, 18, 3)

# Offsets of 32 bits that cannot wrap: numbers of rows, documents and tokens of one, which are counted in 32
# bits, and what a byte says.
COUNTS = (
    *("tl.load(r + row)", "tl.load(mean + row)", "tl.load(starts + document)"),
    *("tl.load(ends + document)", "tl.load(code2 + index)", "tl.load(code + (both"),
    *("product_start + queries", "stats_start + 2 * queries", "products + head * tokens + rows"),
)

NO_MASK = "none of its positions can be masked"
MASKED = dict.fromkeys(CASES, NO_MASK) | dict.fromkeys(
    ("attention", "cross_entropy", "linear_cross_entropy", "linear_log_probs"), ""
)

BITS = "its numbers are those of a table"
FAR = dict.fromkeys(CASES, "") | {
    "attention": "scores far from zero are `test_attention.test_confident_scores`",
    "dequantize_4bit": BITS,
    **dict.fromkeys(
        ("lora_linear", "lora_linears", "lora_mlp"), "products, which scale with their inputs"
    ),
}


def problem(name: str, sizes: Sizes = SIZES) -> Problem:
    return CASES[name](sizes, Place(torch.float32))


@pytest.mark.parametrize("name", CASES)
def test_nothing_beside_the_tensors_is_read_or_written(name) -> None:
    case = problem(name)
    want = run(case.ours, case.inputs)
    with guarded() as guards:
        got = run(case.ours, [guards.surround(x) for x in case.inputs])
    assert guards.broken() == 0
    assert all(torch.equal(mine, other) for mine, other in zip(got, want, strict=True))


def test_guards_see_what_is_written_beside_a_tensor() -> None:
    with guarded() as guards:
        made = torch.empty(3, 4).t()
    assert made.shape == (4, 3)
    made.as_strided((1,), (1,), made.storage_offset() + 12).fill_(1.0)
    assert guards.broken() == 1


@pytest.mark.parametrize("name", CASES)
def test_offsets_that_grow_with_programs_have_64_bits(name) -> None:
    case = problem(name, SEVERAL)
    with narrow_offsets() as found:
        run(case.ours, case.inputs)
    assert [line for line in found if not any(count in line for count in COUNTS)] == []


@triton.jit
def copy(x, y, columns, block: tl.constexpr):
    start = tl.program_id(0) * columns
    tl.store(y + start + tl.arange(0, block), tl.load(x + start + tl.arange(0, block)))


def test_an_offset_of_32_bits_is_found(monkeypatch) -> None:
    monkeypatch.setattr(kernel_watch, "OPERATIONS", __file__)
    with narrow_offsets() as found:
        copy[(2,)](torch.ones(8), torch.zeros(8), 4, block=4)
    assert len(found) == 1


def test_tokens_too_far_apart_for_a_tile_are_copied() -> None:
    far = torch.empty(2**24 + 16).as_strided((2, 1, 16), (2**24, 16, 1))
    near = torch.empty(2, 1, 32)[..., :16]
    copied, kept = _dense(far, near)
    assert copied.is_contiguous()
    assert kept is near


@pytest.mark.parametrize("name", CASES)
def test_strided_inputs_and_expanded_gradients(name) -> None:
    case = problem(name)
    apart = [torch.stack((x, -x), -1)[..., 0] for x in case.inputs]
    assert all(x.stride(-1) == 2 for x in apart)
    want = run(with_gradients(case.ours, torch.ones_like), case.inputs)
    got = run(with_gradients(case.ours, lambda y: y.new_ones(()).expand_as(y)), apart)
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def with_gradients(operation: Operation, upstream) -> Operation:
    """Outputs and gradients as outputs, without a gradient of their own."""

    def differentiated(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = operation(*inputs)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        if not outputs[0].requires_grad:
            return outputs
        found = torch.autograd.grad(outputs, inputs, [upstream(y) for y in outputs])
        return *(y.detach() for y in outputs), *found

    return differentiated


@pytest.mark.parametrize("name", [name for name, reason in MASKED.items() if not reason])
def test_all_positions_masked(name, monkeypatch) -> None:
    nothing = torch.zeros(2, dtype=torch.long)
    monkeypatch.setattr(kernel_cases, "documents", lambda *_: Documents(nothing, nothing, 0))
    monkeypatch.setattr(kernel_cases, "labels_of", lambda *_: torch.full((SIZES.rows,), -100))
    case = problem(name)
    for result in run(case.ours, case.inputs):
        assert torch.equal(result, torch.zeros_like(result))


@pytest.mark.parametrize("name", [name for name, reason in FAR.items() if not reason])
@pytest.mark.parametrize("scale", [40.0, 1e-3])
def test_confident_and_tiny_numbers(name, scale) -> None:
    case = problem(name)
    assert_not_worse(case.ours, case.stock, [x * scale for x in case.inputs])


def test_libraries_that_are_too_old_are_refused() -> None:
    refuse_old("triton", "3.10.0")
    with pytest.raises(ImportError, match=r"triton 3\.1\.0 is too old .* needs 3\.2"):
        refuse_old("triton", "3.1.0")
