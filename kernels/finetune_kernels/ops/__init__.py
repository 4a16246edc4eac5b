"""One file an operation: formula, Triton kernels, registration with PyTorch, reference."""

from finetune_kernels.ops.add_rms_norm import add_rms_norm
from finetune_kernels.ops.glu import geglu, swiglu
from finetune_kernels.ops.layer_norm import layer_norm
from finetune_kernels.ops.rms_norm import rms_norm
from finetune_kernels.ops.rope import rope, rope_

__all__ = ["add_rms_norm", "geglu", "layer_norm", "rms_norm", "rope", "rope_", "swiglu"]
