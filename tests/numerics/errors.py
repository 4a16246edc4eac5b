"""Measure: the error of ours and of PyTorch in the same dtype, both against PyTorch in float64."""

from dataclasses import dataclass

import torch

from support.kernel_cases import CASES, Place, Sizes
from support.kernel_truth import DTYPES, error, run, widened

# Columns that no block divides; as large as the interpreter does in a minute.
SIZES = Sizes(64, 328, 712, 1031, 4, 2, 80, 8)

# What the order of sums may add to PyTorch's own error, in units of rounding. In half precision sums are in
# float32, whose order turns few roundings of results; in float32 it is most of the error.
NOISE = {torch.float32: 2.0, torch.float16: 0.05, torch.bfloat16: 0.05}


@dataclass(frozen=True)
class Errors:
    """One output or gradient of one operation, in one dtype.

    Attributes:
        operation: Its name in `finetune_kernels.ops`.
        result: The output, or the gradient with a leading d.
        dtype: Of the inputs.
        ours: Relative error in the Frobenius norm.
        stock: That of eager PyTorch.
    """

    operation: str
    result: str
    dtype: torch.dtype
    ours: float
    stock: float

    @property
    def allowed(self) -> bool:
        """Whether ours is not worse than PyTorch's, but for noise."""
        return self.ours <= self.stock + NOISE[self.dtype] * torch.finfo(self.dtype).eps


def measured(device: str, sizes: Sizes = SIZES) -> list[Errors]:
    """Of every operation in every dtype."""
    return [
        each for name in CASES for dtype in DTYPES for each in _errors(name, dtype, device, sizes)
    ]


def _errors(name: str, dtype: torch.dtype, device: str, sizes: Sizes) -> list[Errors]:
    problem = CASES[name](sizes, Place(dtype, device))
    truth = run(problem.stock, widened(problem.inputs), rounded=dtype)
    stock, ours = run(problem.stock, problem.inputs), run(problem.ours, problem.inputs)
    return [
        Errors(name, result, dtype, error(got, true), error(theirs, true))
        for result, got, theirs, true in zip(problem.results, ours, stock, truth, strict=True)
    ]
