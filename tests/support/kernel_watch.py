"""Watch kernels in Triton's interpreter: what they touch beside their tensors, and how they count.

`guarded` puts memory around every tensor that operations make, and around inputs: a store beside them is
found, and a load beside them gives NaN. `narrow_offsets` finds offsets of 32 bits that grow with the number
of the program, which wrap at tensors of 2^31 elements. Used by tests of kernels.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from linecache import getline
from pathlib import Path
from types import FrameType
from unittest.mock import patch

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, interpreter_builder

OPERATIONS = Path(__file__).parents[2] / "kernels/finetune_kernels/ops"
# Elements on either side: more than the widest block has beyond a tensor's end.
_MARGIN = 8192
_INTEGER = 77


class Guards:
    """Tensors with guarded memory around them."""

    def __init__(self) -> None:
        self._whole: list[tuple[Tensor, int]] = []

    def surround(self, tensor: Tensor) -> Tensor:
        """A dense copy whose memory is guarded."""
        guarded = self.empty(tensor.shape, tensor.dtype)
        return guarded.copy_(tensor)

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Unset values, guarded; NaN around them where the dtype has it."""
        count = shape.numel()
        guard = float("nan") if dtype.is_floating_point else _INTEGER
        whole = torch.full((count + 2 * _MARGIN,), guard, dtype=dtype)
        self._whole.append((whole, count))
        return whole[_MARGIN : _MARGIN + count].view(shape)

    def broken(self) -> int:
        """How many tensors have something written beside them."""
        return sum(_changed(whole, count) for whole, count in self._whole)


def _changed(whole: Tensor, count: int) -> bool:
    guard = torch.cat((whole[:_MARGIN], whole[_MARGIN + count :]))
    same = guard.isnan() if guard.is_floating_point() else guard == guard[0]
    return not bool(same.all())


@contextmanager
def guarded() -> Iterator[Guards]:
    """Everything that is allocated inside has guards around it, as far as Python allocates it."""
    guards = Guards()
    with (
        patch.object(torch, "empty", _in_place_of(torch.empty, guards)),
        patch.object(torch, "zeros", _in_place_of(torch.zeros, guards)),
        patch.object(torch, "empty_like", _in_place_of(torch.empty_like, guards)),
        patch.object(torch, "zeros_like", _in_place_of(torch.zeros_like, guards)),
        patch.object(Tensor, "new_empty", _in_place_of(Tensor.new_empty, guards)),
        patch.object(Tensor, "new_zeros", _in_place_of(Tensor.new_zeros, guards)),
    ):
        yield guards


def _around(made: Tensor, guards: Guards) -> Tensor:
    # A transposed tensor keeps its order of strides.
    dims = sorted(range(made.dim()), key=made.stride, reverse=True)
    dense = guards.surround(made.permute(dims))
    return dense.permute([dims.index(each) for each in range(made.dim())])


def _in_place_of(make: Callable[..., Tensor], guards: Guards) -> Callable[..., Tensor]:
    return lambda *args, **options: _around(make(*args, **options), guards)


@contextmanager
def narrow_offsets() -> Iterator[set[str]]:
    """Lines of kernels at which an offset of 32 bits differs from program to program."""
    seen: dict[tuple[str, str], dict[tuple[int, ...], set[bytes]]] = {}
    add = InterpreterBuilder.create_addptr

    def watching(builder: InterpreterBuilder, pointer: object, offset: tl.tensor) -> object:
        if offset.data.dtype == np.int32:
            programs = seen.setdefault(_place(), {})
            values = programs.setdefault(tuple(interpreter_builder.grid_idx), set())
            values.add(offset.data.tobytes())
        return add(builder, pointer, offset)

    found: set[str] = set()
    with patch.object(InterpreterBuilder, "create_addptr", watching):
        yield found
    for (_, line), programs in seen.items():
        if len(set(map(frozenset, programs.values()))) > 1:
            found.add(line)


def _place() -> tuple[str, str]:
    """The kernel that is being interpreted, and the line, which may be of a function that it calls."""
    kernels = [
        frame
        for frame in _frames()
        if "tl" in frame.f_globals and _is_ours(frame.f_code.co_filename)
    ]
    inner = kernels[0]
    return kernels[-1].f_code.co_name, getline(inner.f_code.co_filename, inner.f_lineno).strip()


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_ours(file: str) -> bool:
    return file.startswith(str(OPERATIONS))
