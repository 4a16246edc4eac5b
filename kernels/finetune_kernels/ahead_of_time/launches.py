"""Launches as operations really make them, recorded instead of run.

An operation called on CPU tensors inside `recording` reaches its kernels with the arguments, block sizes
and warps that it would have on a GPU; what it returns then is unset memory. Called by `catalogue`. Needs
kernels that were decorated without Triton's interpreter.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

from finetune_kernels import launch
from finetune_kernels.ahead_of_time.chips import Chip

_POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Launch:
    """A kernel with everything that its machine code depends on.

    Attributes:
        label: The operation and its shape, for people.
        kernel: The decorated function.
        signature: Type of each argument, `constexpr` for what is compiled in.
        constants: Values of those.
        aligned: Positions of arguments that are multiples of 16, which makes wide loads possible.
        options: `num_warps` and the like.
    """

    label: str
    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[int, ...]
    options: dict[str, object]

    @property
    def name(self) -> str:
        """Module and function of the kernel."""
        module = self.kernel.fn.__module__.rpartition(".")[2]
        return f"{module}.{self.kernel.fn.__name__.strip('_').removesuffix('_kernel')}"

    @property
    def digest(self) -> str:
        """Stands for all that the machine code follows from, but the chip."""
        constants = {name: str(value) for name, value in self.constants.items()}
        parts = (self.signature, constants, self.aligned, self.options, triton.__version__)
        text = "".join(sorted(_sources(self.kernel))) + json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Entry:
    """A row of the table: a kernel at a shape, as it is launched on each chip, in the order of `CHIPS`."""

    launches: tuple[Launch, ...]

    @property
    def key(self) -> tuple[str, str]:
        """The kernel and the shape."""
        return self.launches[0].name, self.launches[0].label

    @property
    def digest(self) -> str:
        """Stands for all that the figures of the row follow from."""
        text = "".join(launch.digest for launch in self.launches)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sources(kernel: JITFunction[Any]) -> set[str]:
    """The texts of a kernel and of all that it calls; not where they stand in their files."""
    called = (kernel.fn.__globals__.get(name) for name in kernel.fn.__code__.co_names)
    found = {kernel.src}
    for function in called:
        if isinstance(function, JITFunction):
            found |= _sources(function)
    return found


@contextmanager
def recording(label: str, chip: Chip) -> Iterator[list[Launch]]:
    """Collect the launches of the block on this chip, each different one once; nothing runs."""
    found: list[Launch] = []

    def record(
        kernel: JITFunction[Any], *args: object, grid: object, warmup: bool, **options: object
    ) -> None:
        recorded = _launch(label, kernel, args, options)
        if recorded not in found:
            found.append(recorded)

    run: Callable[..., Any] = JITFunction.run
    before = launch.INTERPRETED, launch.GENERATION
    JITFunction.run = record
    # Operations ask these before they launch on the CPU.
    launch.INTERPRETED, launch.GENERATION = True, chip.capability // 10
    try:
        yield found
    finally:
        JITFunction.run = run
        launch.INTERPRETED, launch.GENERATION = before


def _launch(
    label: str, kernel: JITFunction[Any], args: tuple[object, ...], options: dict[str, object]
) -> Launch:
    values = dict(zip(kernel.arg_names, args, strict=False))
    values |= {name: options.pop(name) for name in kernel.arg_names if name in options}
    signature, constants, aligned = {}, {}, []
    for index, parameter in enumerate(kernel.params):
        value = values.get(parameter.name, parameter.default)
        kind = "constexpr" if parameter.is_constexpr else _type_of(value)
        signature[parameter.name] = kind
        if kind == "constexpr":
            constants[parameter.name] = value
        elif _is_aligned(value):
            aligned.append(index)
    return Launch(label, kernel, signature, constants, tuple(aligned), options)


def _type_of(value: object) -> str:
    """The type that Triton gives an argument; None and the number 1 are compiled in."""
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    if value is None or (value == 1 and not isinstance(value, bool)):
        return "constexpr"
    if isinstance(value, bool):
        return "i1"
    return "i32" if isinstance(value, int) and -(2**31) <= value < 2**31 else "i64"


def _is_aligned(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.data_ptr() % 16 == 0
    return isinstance(value, int) and not isinstance(value, bool) and value % 16 == 0
