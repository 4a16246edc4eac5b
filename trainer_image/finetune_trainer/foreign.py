"""Names for objects of libraries that carry no types.

Used in signatures all over the trainer, so that a reader sees what is passed. To the type checker
they are unchecked.
"""

from typing import Any, TypeAlias

Model: TypeAlias = Any
"""A `transformers.PreTrainedModel` with any head, or PEFT's wrapper of one."""

CausalLM: TypeAlias = Any
"""The same with the head of a causal language model."""

ModelConfig: TypeAlias = Any
"""A `transformers.PretrainedConfig`."""

Tokenizer: TypeAlias = Any
"""A `transformers.PreTrainedTokenizerBase`."""

S3Client: TypeAlias = Any
"""boto3's client of the service `s3`."""

Foreign: TypeAlias = Any
"""An object that is handed from one library call to the next, and never looked into."""
