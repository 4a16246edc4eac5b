"""Exchange the forward of one module for another function, and put it back.

The function is bound to the module itself and kept in the instance, so classes, state dicts and other
models of the process stay as they are, and a deep copy of the model is bound to its own modules.
Called by `patching.model`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Replacement:
    """A module whose forward is ours."""

    module: nn.Module
    forward: MethodType

    def undo(self) -> None:
        """Give the module its class's forward back, unless somebody has replaced ours since."""
        if self.module.__dict__.get("forward") is self.forward:
            del self.module.__dict__["forward"]


def replaced_already(module: nn.Module) -> bool:
    """Whether the forward of this instance was exchanged: such a module is not patched."""
    return "forward" in module.__dict__


def replaced_by_another(module: nn.Module) -> bool:
    """Whether the forward of this instance is neither ours nor that of its class."""
    own = module.__dict__.get("forward")
    function = getattr(own, "__func__", own)
    return own is not None and not str(function.__module__).startswith("finetune_kernels.")


def replace_forward(module: nn.Module, function: Callable[..., Any]) -> Replacement:
    """Make `function`, whose first argument is the module, the forward of this instance."""
    bound = MethodType(function, module)
    module.forward = bound
    return Replacement(module, bound)
