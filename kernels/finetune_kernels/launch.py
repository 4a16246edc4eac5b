"""What every operation asks before it launches: may kernels run here, and with which arithmetic.

Called by the files of `ops`. Nothing here is tuned while a job runs: block sizes follow from shapes.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

# The oldest releases with which the tests of the kernels passed.
OLDEST = {"torch": (2, 6), "triton": (3, 2)}
# Elements of one program of an elementwise kernel: 16 bytes a thread and load for 128 threads in bf16.
ELEMENTWISE_BLOCK = 1024
# Columns that one program holds in registers at once; longer rows are walked in steps.
ROW_BLOCK = 4096
# Read once: Triton reads it when it decorates the kernels, and torch.compile cannot follow its reading.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")
# The generation that tensors on a CPU stand for: `ahead_of_time` sets it to compile for a chip.
GENERATION = 0


_permitted = True


def permit(kernels: bool) -> None:
    """Say whether operations of this process may launch Triton kernels; they may until this is called."""
    global _permitted  # noqa: PLW0603 - operations are functions, and so is what they ask
    _permitted = kernels


def refuse_old(library: str, version: str) -> None:
    """Say that a library is too old, before something in it is found missing.

    Raises:
        ImportError: With the oldest version that will do.
    """
    found = tuple(int(number) for number in version.split(".")[:2])
    if found < OLDEST[library]:
        oldest = ".".join(map(str, OLDEST[library]))
        raise ImportError(f"{library} {version} is too old for finetune_kernels: needs {oldest}")


refuse_old("torch", torch.__version__)
refuse_old("triton", triton.__version__)


def kernels_run_on(x: Tensor) -> bool:
    """Whether Triton kernels may run on the device of `x`: a GPU, or any with the interpreter on."""
    return _permitted and (x.is_cuda or INTERPRETED)


def generation(x: Tensor) -> int:
    """The major number of the GPU's compute capability, such as 9 for sm_90."""
    return torch.cuda.get_device_capability(x.device)[0] if x.is_cuda else GENERATION


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def arithmetic(dtype: torch.dtype) -> object:
    """The same as `sum_dtype`, in Triton's words, for a kernel's `wide` argument."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def whole_row(columns: int, dtype: torch.dtype) -> dict[str, object]:
    """Launch options of a kernel whose program holds a whole row of this many columns."""
    block = triton.next_power_of_2(columns)
    return {"block": block, "wide": arithmetic(dtype), "num_warps": min(max(block // 256, 1), 16)}


def same_device(**tensors: Tensor) -> None:
    """Refuse tensors that live on different devices: a kernel would read foreign addresses.

    Raises:
        ValueError: Names the first two tensors that are apart.
    """
    (first, start), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != start.device:
            raise ValueError(
                f"{first} is on {start.device} and {name} on {tensor.device}; move one of them"
            )
