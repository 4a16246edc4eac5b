"""Give one attention layer our RoPE without touching its module's functions.

Attention layers of transformers call `apply_rotary_pos_emb` by its global name. Their forward is copied
with a set of globals in which that name is ours; the copy is bound to one instance, and everything else
in it (cache, masks, attention backends) stays the library's. Called by `patching.model`.
"""

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from finetune_kernels.ops.rope import rope

ROTATION = "apply_rotary_pos_emb"


def rotary_forward(attention: type[nn.Module]) -> Callable[..., Any]:
    """A copy of the class's forward that rotates with `rope`.

    Raises:
        ValueError: Its forward does not call `apply_rotary_pos_emb`.
    """
    if not rotates(attention):
        raise ValueError(f"the forward of {attention.__name__} does not call {ROTATION}")
    return _copied(plain_forward(attention))


def rotates(attention: type[nn.Module]) -> bool:
    """Whether the forward of this class calls the function that is exchanged."""
    forward = plain_forward(attention)
    return isinstance(forward, FunctionType) and ROTATION in forward.__code__.co_names


def plain_forward(attention: type[nn.Module]) -> FunctionType:
    """The function that the class defines, for any object with its attributes as `self`."""
    # Below the wrappers that only translate old names of arguments, which the layers do not use.
    forward: FunctionType = inspect.unwrap(attention.forward)
    return forward


@functools.cache
def _copied(forward: FunctionType) -> Callable[..., Any]:
    names = {**forward.__globals__, ROTATION: _rotate}
    # With its module's name, torch.compile would look the function up in the module, and find theirs.
    del names["__name__"]
    code, closure = forward.__code__, forward.__closure__
    copy = FunctionType(code, names, forward.__name__, forward.__defaults__, closure)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy


def _rotate(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *_: object, **__: object
) -> tuple[Tensor, Tensor]:
    return rope(q, k, cos, sin)
