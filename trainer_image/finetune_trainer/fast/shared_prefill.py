"""Read each prompt once before its answers are written, however many answers it gets.

Around `generate`, by `answering`. The first pass of a generation reads all prompts; rows with the same one
would all fill their part of the cache with the same keys and values. Here that pass is of the different
prompts, and its results are handed to every row: exact, and only that one pass is another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from finetune_trainer.fast.head import base_of
from finetune_trainer.foreign import Foreign, Model


def why_not(model: Model) -> str | None:
    """Why every row reads its own prompt; None if each prompt is read once.

    Args:
        model: A causal language model, wrapped by PEFT or not.
    """
    base = base_of(model)
    # What `generate` asks when it makes the cache.
    if base._supports_default_dynamic_cache():
        return None
    return f"{type(base).__name__} keeps a cache of its own kind"


@contextmanager
def shared_prefill(model: Model) -> Iterator[None]:
    """Within it, prompts that stand in several rows are read once; no gradients are wanted.

    Args:
        model: A causal language model, wrapped by PEFT or not.
    """
    base = base_of(model)
    own = base.__dict__.get("forward")
    before = base.forward

    # With the signature of the class, against which `generate` checks its arguments.
    @wraps(type(base).forward)
    def forward(self: Model, *arguments: Foreign, **named: Foreign) -> Foreign:
        rows = None if arguments else _different(named)
        if rows is None:
            return before(*arguments, **named)
        return _handed_out(before(**_chosen(named, rows[0])), rows[1])

    base.forward = MethodType(forward, base)
    try:
        yield
    finally:
        if own is None:
            del base.forward
        else:
            base.forward = own


def _different(named: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Rows to read, and for each row which of them is its own; None where every row must be read."""
    ids, mask, cache = (named.get(name) for name in ("input_ids", "attention_mask", "cache"))
    if not isinstance(cache, DynamicCache) or ids is None or mask is None or ids.shape[1] < 2:
        return None
    if cache.get_seq_length() or mask.shape != ids.shape:
        return None
    found: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    own = []
    for row, tokens in enumerate(torch.cat([ids, mask.to(ids.dtype)], 1).tolist()):
        key = tuple(tokens)
        if key not in found:
            found[key] = len(first)
            first.append(row)
        own.append(found[key])
    if len(first) == len(own):
        return None
    return torch.tensor(first, device=ids.device), torch.tensor(own, device=ids.device)


def _chosen(named: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """The arguments of some rows."""
    count = len(named["input_ids"])
    return {name: value[rows] if _of_rows(value, count) else value for name, value in named.items()}


def _of_rows(value: object, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == count


def _handed_out(outputs: Foreign, own: Tensor) -> Foreign:
    outputs.cache.batch_select_indices(own)
    outputs.logits = outputs.logits[own]
    return outputs
