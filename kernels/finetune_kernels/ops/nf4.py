r"""Dequantisation of 4-bit weights: NF4 (Dettmers et al. 2023, arXiv 2305.14314) and FP4, one pass.

Element i of block b = i // blocksize, q its bits:   w[i] = cast(code[q] * scale[b])
Double quantisation, e the bits of scale b:           scale[b] = code2[e] * scale2[b // blocksize2] + offset

The format is that of bitsandbytes: two elements a byte, the first one in the high bits; `code` is a table
of 16 values and `code2` of 256. The products are rounded one by one, so results are equal to the bit to
`bitsandbytes.functional.dequantize_4bit`. Reads 0.52 bytes a weight and writes its dtype's; nothing else.
Called by the LoRA blocks; there is no gradient, for such weights are frozen.
"""

from typing import NamedTuple, Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from finetune_kernels.launch import kernels_run_on, same_device

# Bytes of one program: 1024 elements, 16 bytes of bf16 a thread for 128 threads.
BYTES_BLOCK = 512


class QuantState(Protocol):
    """What is read of bitsandbytes' class of this name."""

    absmax: Tensor
    code: Tensor
    blocksize: int
    shape: torch.Size
    dtype: torch.dtype
    offset: Tensor | None
    state2: "QuantState | None"


class _Scales(NamedTuple):
    """Scales of the blocks, and how those were quantised in turn, if they were."""

    absmax: Tensor
    code: Tensor
    code2: Tensor | None
    absmax2: Tensor | None
    offset: Tensor | None
    blocksize: int
    blocksize2: int


def dequantize_4bit(
    packed: Tensor, state: QuantState, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """The weight that `packed` stands for.

    Args:
        packed: Bytes of any shape and any dtype of storage, contiguous.
        state: bitsandbytes' `QuantState`; its `shape` is that of the weight, of one or two dimensions.
        dtype: Of the result; without it that of `state`.
        out: Where to write: the weight's shape, columns side by side, rows at any distance.

    Returns:
        `out`, or a new tensor.

    Raises:
        ValueError: Too few bytes, an `out` that does not fit, or tensors on different devices.
    """
    columns = state.shape[-1]
    if out is None:
        out = torch.empty(state.shape, dtype=dtype or state.dtype, device=packed.device)
    if out.shape != state.shape or out.stride(-1) != 1 or dtype not in (None, out.dtype):
        raise ValueError(
            f"out {tuple(out.shape)} {out.dtype} must be {tuple(state.shape)} {dtype}, columns dense"
        )
    data = packed.reshape(-1).view(torch.uint8)
    if 2 * data.numel() < out.numel():
        raise ValueError(f"{data.numel()} bytes are too few for {out.numel()} elements")
    scales = _scales(state)
    same_device(packed=packed, absmax=scales.absmax, code=scales.code, out=out)
    if not kernels_run_on(packed):
        return out.copy_(_reference(data, scales, out.numel()).view(out.shape))
    if out.is_contiguous():
        torch.ops.finetune.dequantize_4bit(data, out.view(1, -1), *scales)
    elif columns % 2:  # a byte would belong to two rows
        out.copy_(dequantize_4bit(packed, state, out.dtype))
    else:
        torch.ops.finetune.dequantize_4bit(data, out, *scales)
    return out


def dequantize_4bit_reference(
    packed: Tensor, state: QuantState, dtype: torch.dtype | None = None
) -> Tensor:
    """The same in plain PyTorch: oracle of the tests, and what runs without a GPU."""
    data = packed.reshape(-1).view(torch.uint8)
    values = _reference(data, _scales(state), state.shape.numel())
    return values.view(state.shape).to(dtype or state.dtype)


def _scales(state: QuantState) -> _Scales:
    nested = state.state2
    if nested is None:
        return _Scales(state.absmax, state.code, None, None, None, state.blocksize, 1)
    second = (nested.code, nested.absmax, state.offset)
    return _Scales(state.absmax, state.code, *second, state.blocksize, nested.blocksize)


def _reference(data: Tensor, scales: _Scales, count: int) -> Tensor:
    scale = scales.absmax
    if scales.code2 is not None and scales.absmax2 is not None and scales.offset is not None:
        wide = scales.absmax2.repeat_interleave(scales.blocksize2)[: scale.numel()]
        scale = scales.code2[scale.int()] * wide + scales.offset
    # Both elements of a byte by one look-up.
    pairs = torch.stack((scales.code.repeat_interleave(16), scales.code.repeat(16)), dim=-1)
    values = pairs.index_select(0, data.int()).view(-1)[:count]
    whole = count - count % scales.blocksize
    blocks = values[:whole].view(-1, scales.blocksize) * scale[: whole // scales.blocksize, None]
    if whole == count:
        return blocks.view(-1)
    return torch.cat((blocks.view(-1), values[whole:] * scale[whole // scales.blocksize]))


@triton.jit
def _dequantize_kernel(
    data,
    out,
    absmax,
    code,
    code2,
    absmax2,
    offset,
    columns,
    row_stride,
    blocks_per_row,
    half_block: tl.constexpr,
    blocksize2: tl.constexpr,
    nested: tl.constexpr,
    block: tl.constexpr,
):
    # 64 bits: a head of 128256 x 16384 has 2^31 elements. One division a program, none an element:
    # the sizes of blocks are constants, and powers of two.
    row = (tl.program_id(0) // blocks_per_row).to(tl.int64)
    start = (tl.program_id(0) % blocks_per_row).to(tl.int64) * block
    within = start + tl.arange(0, block)
    inside = 2 * within < columns
    byte = row * columns // 2 + within
    both = tl.load(data + byte, mask=inside, other=0).to(tl.int32)
    number = byte // half_block
    if nested:
        index = tl.load(absmax + number, mask=inside, other=0).to(tl.int32)
        wide = tl.load(absmax2 + number // blocksize2, mask=inside, other=0.0)
        scale = tl.load(code2 + index) * wide + tl.load(offset)
    else:
        scale = tl.load(absmax + number, mask=inside, other=0.0).to(tl.float32)
    first = tl.load(code + (both >> 4)) * scale
    second = tl.load(code + (both & 15)) * scale
    column = 2 * start + tl.arange(0, 2 * block)
    where = row * row_stride + column
    tl.store(out + where, tl.interleave(first, second), mask=column < columns)


@torch.library.custom_op("finetune::dequantize_4bit", mutates_args=("out",))
def _dequantize(
    data: Tensor,
    out: Tensor,
    absmax: Tensor,
    code: Tensor,
    code2: Tensor | None,
    absmax2: Tensor | None,
    offset: Tensor | None,
    blocksize: int,
    blocksize2: int,
) -> None:
    nested = code2 is not None
    rows, columns = out.shape
    blocks = triton.cdiv(columns, 2 * BYTES_BLOCK)
    _dequantize_kernel[(rows * blocks,)](
        *(data, out, absmax, code),
        *((code2, absmax2, offset) if nested else (code, code, code)),
        *(columns, out.stride(0), blocks),
        half_block=blocksize // 2,
        blocksize2=blocksize2,
        nested=nested,
        block=BYTES_BLOCK,
        num_warps=4,
        # A fused multiply-add would round the scales otherwise than bitsandbytes does.
        enable_fp_fusion=False,
    )


@_dequantize.register_fake
def _(*_: object) -> None:
    return None
