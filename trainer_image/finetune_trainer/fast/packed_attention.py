"""Our attention as an `attn_implementation` of transformers, for images without flash-attn.

A model that it was installed on hands over packed batches (position ids that begin anew, or cumulative
lengths), padded ones and those with a cache; documents never see each other, and no mask of all tokens by
all tokens exists. Called by whoever loads a model for packed batches. What the operation lacks (dropout,
soft caps, sinks, bidirectional layers) is refused, never left out.
"""

import weakref

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from finetune_kernels.ops import Documents, attention
from finetune_trainer.foreign import Foreign, Model

NAME = "finetune_packed"


def install(model: Model) -> None:
    """Let one model take its attention from `finetune_kernels`."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def _mask(
    *_: Foreign, kv_length: int, attention_mask: Tensor | None = None, **__: Foreign
) -> Tensor | None:
    """The padding alone, `(B, keys)`: order, windows and documents are the operation's."""
    return None if attention_mask is None else attention_mask[:, -kv_length:]


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Foreign,
) -> tuple[Tensor, None]:
    _refuse(module, dropout, options)
    batch, heads, length, size = query.shape
    spans = _documents(query, key, attention_mask, options)
    q, k, v = (t.transpose(1, 2).reshape(-1, t.shape[1], size) for t in (query, key, value))
    out = attention(q, k, v, *spans, scale=scaling, window=sliding_window)
    return out.view(batch, length, heads, size), None


def _refuse(module: torch.nn.Module, dropout: float, options: dict[str, Foreign]) -> None:
    causal = options.get("is_causal")
    lacking = {
        "dropout of attention": dropout > 0,
        "soft caps of scores": options.get("softcap") is not None,
        "attention sinks": options.get("s_aux") is not None,
        "bidirectional layers": not (
            getattr(module, "is_causal", True) if causal is None else causal
        ),
    }
    for what, asked in lacking.items():
        if asked:
            raise ValueError(f"attention {NAME!r} has no {what}; load the model with sdpa")


def _documents(
    query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Foreign]
) -> tuple[Documents, Documents]:
    """Spans of queries and of keys among the rows of the batch, laid end to end."""
    batch, _, length, _ = query.shape
    if (cumulative := options.get("cu_seq_lens_q")) is not None:
        longest = (options["max_length_q"], options["max_length_k"])
        queries = Documents.packed(cumulative, int(longest[0]))
        return queries, Documents.packed(options["cu_seq_lens_k"], int(longest[1]))
    if mask is not None:
        return Documents.padded(mask[:, -length:]), Documents.padded(mask)
    positions = options.get("position_ids")
    if batch == 1 and positions is not None and key.shape[2] == length > 1:
        spans = _of_positions(positions)
        return spans, spans
    device = query.device
    return Documents.rows(batch, length, device), Documents.rows(batch, key.shape[2], device)


_latest: dict[str, tuple[weakref.ref[Tensor], int, Documents]] = {}


def _of_positions(positions: Tensor) -> Documents:
    """Documents of one batch: its first layer waits for the device, the others ask here."""
    found = _latest.get("batch")
    if found is None or found[0]() is not positions or found[1] != positions._version:
        spans = Documents.from_positions(positions.flatten())
        _latest["batch"] = found = (weakref.ref(positions), positions._version, spans)
    return found[2]
