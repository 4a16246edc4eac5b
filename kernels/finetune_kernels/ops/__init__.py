"""One file an operation: formula, Triton kernels, registration with PyTorch, reference."""

from finetune_kernels.ops.rms_norm import rms_norm

__all__ = ["rms_norm"]
