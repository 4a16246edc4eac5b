"""How training is fast: Triton kernels with their PyTorch references.

For `finetune_trainer` alone, and usable without it. `ops` has one file an operation. Nothing
patches a model yet, and `training.kernels: Triton` is refused.
"""
