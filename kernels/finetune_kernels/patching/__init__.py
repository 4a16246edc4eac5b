"""Which layers of which models have an operation of ours, and how they are exchanged and put back."""

from typing import Any, TypeAlias

# A module or configuration of transformers or PEFT, which the kernels do not import.
Foreign: TypeAlias = Any
