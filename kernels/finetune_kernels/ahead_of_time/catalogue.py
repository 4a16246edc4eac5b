"""Every operation at the shapes of real models: what `compilation` has to compile.

Widths and vocabularies are those of 1B, 8B and 70B models; bfloat16 throughout, other dtypes at one shape.
Attention, whose kernels fill registers and shared memory, has every size of heads in every dtype.
A new operation adds its cases here. Called by `__main__`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from finetune_kernels import ops
from finetune_kernels.ahead_of_time.chips import CHIPS, Chip
from finetune_kernels.ahead_of_time.launches import Entry, Launch, recording
from finetune_kernels.ops.glu import ACTIVATIONS, gated, glu_backward_

# Divisible by 16, as the rows of real batches are; few, for tensors exist although nothing runs.
_ROWS = 16
_VOCABULARY = 128256
_WIDTHS = (
    (4096, torch.bfloat16),
    (2048, torch.bfloat16),
    (8192, torch.bfloat16),
    (4096, torch.float16),
    (4096, torch.float32),
)
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
Case = tuple[str, Callable[[], Any]]


def entries() -> list[Entry]:
    """The launches of all cases, in the catalogue's order.

    Raises:
        ValueError: Two of them have one name in the table, or chips have different kernels.
    """
    every = [Entry(launches) for launches in zip(*map(_launches, CHIPS), strict=True)]
    # Cases share kernels, such as that of the row sums of attention.
    unique: dict[str, Entry] = {}
    for entry in every:
        unique.setdefault(entry.digest, entry)
    found = list(unique.values())
    keys = [entry.key for entry in found]
    mixed = [e.key for e in found if len({(x.name, x.label) for x in e.launches}) > 1]
    if problems := sorted({key for key in keys if keys.count(key) > 1} | set(mixed)):
        raise ValueError(f"these need labels of their own: {problems}")
    return found


def representative(catalogue: Sequence[Entry]) -> list[Entry]:
    """The first entry of every kernel: what every run of the tests compiles."""
    first: dict[str, Entry] = {}
    for entry in catalogue:
        first.setdefault(entry.key[0], entry)
    return list(first.values())


def _launches(chip: Chip) -> list[Launch]:
    found: list[Launch] = []
    for label, call in _cases():
        with recording(label, chip) as launched:
            call()
        found += launched
    return found


def _cases() -> Iterator[Case]:
    yield from _norms()
    yield from _rope()
    yield from _gates()
    yield from _losses()
    yield from _four_bits()
    yield from _attention()


def _leaf(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.zeros(shape, dtype=dtype, requires_grad=True)


def _both_ways(operation: Callable[..., Any], *inputs: object, **options: object) -> None:
    """Call the operation and its backward pass."""
    outputs = operation(*inputs, **options)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    torch.autograd.backward(outputs, [torch.empty_like(y) for y in outputs])


def _short(dtype: torch.dtype) -> str:
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[str(dtype).split(".")[1]]


def _norms() -> Iterator[Case]:
    for width, dtype in _WIDTHS:
        x, w = _leaf(_ROWS, width, dtype=dtype), _leaf(width, dtype=dtype)
        label = f"H={width} {_short(dtype)}"
        yield label, partial(_both_ways, ops.rms_norm, x, w)
        yield label, partial(_both_ways, ops.add_rms_norm, x, x, w)
        yield label, partial(_both_ways, ops.layer_norm, x, w, w)


def _rope() -> Iterator[Case]:
    for heads, groups, size in ((32, 8, 64), (32, 8, 128), (64, 8, 128)):
        q, k = (_leaf(1, _ROWS, n, size).transpose(1, 2) for n in (heads, groups))
        table, positions = torch.zeros(4096, size), torch.zeros(1, _ROWS, dtype=torch.long)
        label = f"heads={heads}/{groups} D={size} bf16"
        yield label, partial(ops.rope, q, k, table, table, positions)
        # The same kernel, with the sine turned.
        both = (q.detach(), k.detach(), table, table, positions, True)
        yield f"{label} backward", partial(torch.ops.finetune.rope, *both)


def _gates() -> Iterator[Case]:
    for activation in ACTIVATIONS:
        gate, up = _leaf(_ROWS, 14336), _leaf(_ROWS, 14336)
        yield f"{activation} bf16", partial(_both_ways, gated, gate, up, activation)
        dh, gate, up = (torch.zeros(_ROWS, 14336, dtype=torch.bfloat16) for _ in range(3))
        yield f"{activation} bf16 in place", partial(glu_backward_, dh, gate, up, activation)


def _losses() -> Iterator[Case]:
    labels = torch.zeros(_ROWS, dtype=torch.long)
    terms = {"label_smoothing": 0.1, "z_loss": 1e-4, "softcap": 30.0}
    for dtype in (torch.bfloat16, torch.float32):
        logits = _leaf(_ROWS, _VOCABULARY, dtype=dtype)
        label = f"V={_VOCABULARY} {_short(dtype)}"
        yield label, partial(_both_ways, ops.cross_entropy, logits, labels)
        smoothed = partial(_both_ways, ops.cross_entropy, logits, labels, **terms)
        yield f"{label} smoothed, capped", smoothed


def _four_bits() -> Iterator[Case]:
    shape = torch.Size((_ROWS, 14336))
    packed, blocks = torch.zeros(shape.numel() // 2, dtype=torch.uint8), shape.numel() // 64
    nested = SimpleNamespace(
        absmax=torch.zeros(blocks // 256), code=torch.zeros(256), blocksize=256
    )
    for dtype in (torch.bfloat16, torch.float32):
        for label, absmax, second, offset in (
            ("", torch.zeros(blocks), None, None),
            (" double", torch.zeros(blocks, dtype=torch.uint8), nested, torch.zeros(())),
        ):
            state = SimpleNamespace(
                **{"absmax": absmax, "code": torch.zeros(16), "blocksize": 64, "shape": shape},
                **{"dtype": dtype, "offset": offset, "state2": second},
            )
            yield _short(dtype) + label, partial(ops.dequantize_4bit, packed, state)


def _attention() -> Iterator[Case]:
    spans = ops.Documents.rows(1, 256)
    for size, dtype in itertools.product((128, 64, 96, 256), _DTYPES):
        q, k, v = (_leaf(256, heads, size, dtype=dtype) for heads in (8, 2, 2))
        label = f"heads=8/2 D={size} {_short(dtype)}"
        yield label, partial(_both_ways, ops.attention, q, k, v, spans)
        yield f"{label} window", partial(_both_ways, ops.attention, q, k, v, spans, window=128)
