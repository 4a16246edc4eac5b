"""How training is fast: Triton kernels with their PyTorch references.

For `finetune_trainer` alone, and usable without it. `ops` has one file an operation; `patch` puts them
into one model.
"""

from finetune_kernels.patching.choices import Kernels
from finetune_kernels.patching.model import Patch, patch

__all__ = ["Kernels", "Patch", "patch"]
