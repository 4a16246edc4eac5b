"""What the three norms share: rows of the last dimension, of which a program of a kernel holds a whole one.

Called by `rms_norm`, `add_rms_norm` and `layer_norm`.
"""

from torch import Tensor

from finetune_kernels.launch import same_device

# A row and a sum of rows stay in the registers of one program: backward passes of wider rows spill, on
# every chip and with any number of warps. Models of 70B parameters have rows of 8192.
MAX_COLUMNS = 8192
# Each program of the backward pass sums dw over many rows in registers before it stores once; this
# many programs keep every multiprocessor of today's chips (at most 160) busy.
BACKWARD_PROGRAMS = 256


def check_rows(x: Tensor, **parameters: Tensor) -> None:
    """Refuse what the kernels cannot take.

    Raises:
        ValueError: A parameter is not `(H,)` or on another device than `x`, or H exceeds 8192.
    """
    for name, parameter in parameters.items():
        if parameter.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} must be ({x.shape[-1]},) for x {tuple(x.shape)}, not {tuple(parameter.shape)}"
            )
    same_device(x=x, **parameters)
    if x.shape[-1] > MAX_COLUMNS:
        raise ValueError(
            f"rows of {x.shape[-1]} exceed the {MAX_COLUMNS} columns that registers hold; "
            "normalise them with PyTorch"
        )


def dense_rows(*tensors: Tensor) -> list[Tensor]:
    """Each as `(N, H)` without gaps: upstream gradients may be expanded (`y.sum()` gives stride 0)."""
    return [t.reshape(-1, t.shape[-1]).contiguous() for t in tensors]


def backward_programs(rows: Tensor) -> int:
    """How many programs share the rows, each of which sums the gradients of parameters for itself."""
    return max(1, min(rows.shape[0], BACKWARD_PROGRAMS))
