"""Tests of the kernels on a real GPU; without one, each of them is skipped and says so.

They need PyTorch, Triton, pytest and, for models, transformers and PEFT: no trainer and no plugin of pytest.
FINETUNE_GPU_REHEARSAL=1 runs them on a CPU in Triton's interpreter, with tiny sizes: it proves the tests
themselves, no kernel.
"""

import os

import pytest
import torch

REHEARSAL = os.environ.get("FINETUNE_GPU_REHEARSAL", "0") == "1"
if REHEARSAL:
    import support.interpreter  # noqa: F401 - its import switches it on


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if not (REHEARSAL or torch.cuda.is_available()):
        pytest.skip("needs a GPU")
    torch.manual_seed(0)


@pytest.fixture
def rehearsal() -> bool:
    """Whether this is a CPU, and sizes must be tiny."""
    return REHEARSAL


@pytest.fixture
def device() -> str:
    """Where tensors live."""
    return "cpu" if REHEARSAL else "cuda"
