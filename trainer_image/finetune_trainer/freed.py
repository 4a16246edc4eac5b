"""Memory that is free already, given back to the machine.

Called by `recipes.course` between training and verifying, each of which holds a whole model. Allocators keep
what was freed for the next request; a pod's limit counts it all the same.
"""

import ctypes
import gc

import torch


def give_back() -> None:
    """Collect what nothing refers to, and return what the allocators of GPU and CPU keep."""
    gc.collect()
    torch.cuda.empty_cache()
    # glibc has it; other C libraries return memory by themselves, or cannot.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
