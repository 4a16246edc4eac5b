"""Tensors of more than 2^31 elements: the first and the last rows must be those of a small problem.

Rows (for attention, documents) do not depend on each other, so their results and gradients must have the
same bits when they are computed alone. An offset kept in 32 bits would wrap and read or write elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from finetune_kernels import ops
from support.kernel_cases import Place, Sizes, four_bits, rotations
from support.kernel_truth import Operation

LIMIT = 2**31
EDGE = 8
WIDTH = 4096
VOCABULARY = 128256


@dataclass(frozen=True)
class Large:
    """A problem of independent rows.

    Attributes:
        inputs: Their first dimension are rows, and they have gradients.
        operation: Of these rows, the first of which has the given number.
        copies: Tensors as large as the first input that exist at once.
    """

    inputs: Callable[[Place, int], list[Tensor]]
    operation: Callable[[Place, int, int], Operation]
    columns: int
    copies: int


def rows(count: int, columns: int) -> Callable[[Place, int], list[Tensor]]:
    return lambda place, length: [place.normal(length, columns, seed=seed) for seed in range(count)]


def with_weight(operation: Callable[..., Tensor]) -> Callable[[Place, int, int], Operation]:
    return lambda place, *_: lambda *x: operation(*x, place.normal(WIDTH))


def normalised(place: Place, *_: int) -> Operation:
    return lambda x: ops.layer_norm(x, place.normal(WIDTH), place.normal(WIDTH, seed=1))


def losses(place: Place, start: int, count: int) -> Operation:
    labels = (start + torch.arange(count, device=place.device)) * 7919 % VOCABULARY
    return lambda logits: ops.cross_entropy(logits, labels, reduction="none")


def rotated(place: Place, start: int, count: int) -> Operation:
    # A table of few positions, and a position for each token.
    cos, sin = rotations(Sizes(64, 1, 1, 1, 1, 1, 128, 1), place)
    positions = ((start + torch.arange(count, device=place.device)) % 64)[None]

    def turn(q: Tensor) -> Tensor:
        heads = q.view(1, count, WIDTH // 128, 128).transpose(1, 2)
        turned = ops.rope(heads, heads[:, :1], cos[0], sin[0], positions)[0]
        return turned.transpose(1, 2).reshape(count, WIDTH)

    return turn


def attended(place: Place, start: int, count: int) -> Operation:
    # EDGE tokens a document, so that the first and the last rows are whole ones.
    spans = ops.Documents.rows(count // EDGE, EDGE, place.device)

    def attend(q: Tensor) -> Tensor:
        heads = q.view(count, WIDTH // 128, 128)
        return ops.attention(heads, heads[:, :4], heads[:, 4:8], spans).view(count, WIDTH)

    return attend


CASES = {
    "rms_norm": Large(rows(1, WIDTH), with_weight(ops.rms_norm), WIDTH, 5),
    "add_rms_norm": Large(
        rows(2, WIDTH), with_weight(lambda *x: ops.add_rms_norm(*x)[0]), WIDTH, 9
    ),
    "layer_norm": Large(rows(1, WIDTH), normalised, WIDTH, 5),
    "swiglu": Large(rows(2, WIDTH), lambda *_: ops.swiglu, WIDTH, 8),
    "geglu": Large(rows(2, WIDTH), lambda *_: ops.geglu, WIDTH, 8),
    "cross_entropy": Large(rows(1, VOCABULARY), losses, VOCABULARY, 4),
    "rope": Large(rows(1, WIDTH), rotated, WIDTH, 9),
    "attention": Large(rows(1, WIDTH), attended, WIDTH, 10),
}


def enough_memory(tensors: int) -> None:
    """Skip where the device has not that much."""
    need = tensors * LIMIT * 2 / 2**30
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < need:
        pytest.skip(f"needs {need:.0f} GiB of a GPU's memory, and {free:.0f} GiB are free")


@pytest.mark.parametrize("name", CASES)
def test_more_elements_than_32_bits_count(name, device, rehearsal) -> None:
    case = CASES[name]
    if rehearsal:
        count = 3 * EDGE
    else:
        enough_memory(case.copies)
        count = (LIMIT // case.columns // EDGE + 2) * EDGE
        torch.cuda.empty_cache()
    place = Place(torch.bfloat16, device)
    inputs = [x.requires_grad_() for x in case.inputs(place, count)]
    whole = differentiated(case.operation(place, 0, count), inputs)
    for start in (0, count - EDGE):
        edge = slice(start, start + EDGE)
        alone = [x.detach()[edge].clone().requires_grad_() for x in inputs]
        part = differentiated(case.operation(place, start, EDGE), alone)
        assert all(torch.equal(w[edge], p) for w, p in zip(whole, part, strict=True))


def differentiated(operation: Operation, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The output and the gradients of the inputs; the output is its own upstream gradient."""
    out = operation(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, out.detach())]


def test_more_4_bit_weights_than_32_bits_count(device, rehearsal) -> None:
    if not rehearsal:
        enough_memory(2)
    height = 64 if rehearsal else LIMIT // WIDTH + 64
    sizes = Sizes(1, WIDTH, height, 1, 1, 1, 2, 1)
    packed, state = four_bits(sizes, Place(torch.bfloat16, device))
    whole = ops.dequantize_4bit(packed, state)
    # The last 16 rows of 4096 are 1024 blocks of 64, whose scales fill 4 blocks of 256.
    state.absmax, state.state2.absmax = state.absmax[-1024:], state.state2.absmax[-4:]
    state.shape = torch.Size((16, WIDTH))
    alone = ops.dequantize_4bit(packed.flatten()[-16 * WIDTH // 2 :], state)
    assert torch.equal(whole[-16:], alone)
