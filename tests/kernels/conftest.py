"""The interpreter must be on before any kernel is decorated, and must know bfloat16.

Triton's interpreter keeps bfloat16 as integers: it cuts float32 to bfloat16 where the hardware rounds to
even, and multiplies the integers in `tl.dot`. Both are mended here, so that errors can be compared with
PyTorch's.
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_cast, _dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot


def _rounded(data: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
    even = ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return np.where(np.isnan(data), 0x7FC0, (bits + even) >> 16).astype(np.uint16)


def _cast_rounding(builder, source, target):
    if source.dtype.scalar == tl.float64 and target.scalar == tl.bfloat16:
        source = _cast(builder, source, tl.float32)
    if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
        return TensorHandle(_rounded(source.data), tl.bfloat16)
    return _cast(builder, source, target)


def _dot_widened(builder, a, b, d, *options):
    a, b = (_cast(builder, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
    return _dot(builder, a, b, d, *options)


InterpreterBuilder.cast_impl = _cast_rounding
InterpreterBuilder.create_dot = _dot_widened
