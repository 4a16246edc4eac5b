"""Memory that is free already, given back to the machine.

Called by `recipes.course` once texts are token rows, and between training and verifying, each of which
holds a whole model. Allocators keep what was freed for the next request, and a pod's limit counts it.
"""

import ctypes
import gc

import torch


def give_back() -> None:
    """Collect what nothing refers to, and return what the allocators of GPU and CPU keep."""
    gc.collect()
    torch.cuda.empty_cache()
    trim()


def trim() -> None:
    """Return what the allocator of the CPU keeps, of which nothing need be collected."""
    # glibc has it; other C libraries return memory by themselves, or cannot.
    of_library = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if of_library is not None:
        of_library(0)
