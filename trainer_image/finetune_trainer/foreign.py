"""Names for objects of libraries that carry no types.

Used in signatures all over the trainer, so that a reader sees what is passed. To the type checker
they are unchecked.
"""

from typing import Any, TypeAlias

CausalLM: TypeAlias = Any
"""A `transformers.PreTrainedModel`, or PEFT's wrapper of one."""

ModelConfig: TypeAlias = Any
"""A `transformers.PretrainedConfig`."""

Tokenizer: TypeAlias = Any
"""A `transformers.PreTrainedTokenizerBase`."""

S3Client: TypeAlias = Any
"""boto3's client of the service `s3`."""

Foreign: TypeAlias = Any
"""An object that is handed from one library call to the next, and never looked into."""
