"""`spec.model`: which model is tuned, and for what task."""

from typing import Literal

from finetune_api.meta import ApiModel, SecretReference, SourceUri

Task = Literal[
    "text-generation",
    "text2text-generation",
    "text-classification",
    "token-classification",
    "fill-mask",
]


class Model(ApiModel):
    """The base model."""

    source: SourceUri
    """Where the model lies: `hf://org/name[@revision]`, `s3://bucket/prefix`, `pvc://claim/path`,
    `job://name` (the output of another job in this namespace); `file:///path` on a laptop only.
    Weights must be safetensors; model code is never run."""

    task: Task = "text-generation"
    """What the model does, in the Hugging Face hub's words."""

    credentials: SecretReference | None = None
    """Secret with key `HF_TOKEN`, for gated or private models."""
