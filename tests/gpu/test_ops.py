"""Every operation on the device against float64: not worse than PyTorch on the same device."""

import pytest
import torch

from support.kernel_cases import CASES, SMALL, Place, Sizes
from support.kernel_truth import DTYPES, assert_not_worse, run

# Rows and columns that no block divides, and widths of real models.
ODD = Sizes(301, 328, 712, 5003, 6, 2, 72, 8)
REAL = Sizes(512, 4096, 11008, 32000, 32, 8, 128, 16)
# The hardware's exponential is an approximation, good to a few units of float32.
APPROXIMATION = 8 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_not_worse_than_pytorch(name, dtype, device, rehearsal) -> None:
    for sizes in (SMALL,) if rehearsal else (ODD, REAL):
        problem = CASES[name](sizes, Place(dtype, device))
        more = APPROXIMATION if dtype == torch.float32 else 0.0
        assert_not_worse(problem.ours, problem.stock, problem.inputs, more=more)


@pytest.mark.parametrize("name", CASES)
def test_compiled_as_part_of_a_graph(name, device, rehearsal) -> None:
    if rehearsal:
        pytest.skip("needs a GPU: the interpreter is not compiled")
    problem = CASES[name](ODD, Place(torch.bfloat16, device))
    assert_not_worse(torch.compile(problem.ours), problem.stock, problem.inputs)


@pytest.mark.parametrize("name", ["linear_cross_entropy", "linear_log_probs"])
def test_logits_are_never_in_memory(name, device, rehearsal) -> None:
    if rehearsal:
        pytest.skip("needs a GPU: nothing counts a CPU's memory")
    sizes = Sizes(16384, 512, 1024, 128256, 4, 2, 64, 8)
    problem = CASES[name](sizes, Place(torch.bfloat16, device))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(problem.ours, problem.inputs)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < sizes.rows * sizes.vocabulary * 2 / 2
