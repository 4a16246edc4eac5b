"""One file an operation: formula, Triton kernels, registration with PyTorch, reference."""

from finetune_kernels.ops.add_rms_norm import add_rms_norm
from finetune_kernels.ops.attention import attention
from finetune_kernels.ops.cross_entropy import cross_entropy
from finetune_kernels.ops.documents import Documents
from finetune_kernels.ops.glu import geglu, swiglu
from finetune_kernels.ops.layer_norm import layer_norm
from finetune_kernels.ops.linear_cross_entropy import linear_cross_entropy
from finetune_kernels.ops.linear_log_probs import linear_log_probs
from finetune_kernels.ops.lora_linear import lora_linear, lora_linears
from finetune_kernels.ops.lora_mlp import lora_mlp
from finetune_kernels.ops.nf4 import dequantize_4bit
from finetune_kernels.ops.projection import Adapter, Projection
from finetune_kernels.ops.rms_norm import rms_norm
from finetune_kernels.ops.rope import rope, rope_

__all__ = [
    "Adapter",
    "Documents",
    "Projection",
    "add_rms_norm",
    "attention",
    "cross_entropy",
    "dequantize_4bit",
    "geglu",
    "layer_norm",
    "linear_cross_entropy",
    "linear_log_probs",
    "lora_linear",
    "lora_linears",
    "lora_mlp",
    "rms_norm",
    "rope",
    "rope_",
    "swiglu",
]
