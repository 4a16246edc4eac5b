"""Attention in a long row of families: prompts see themselves, answers their prompt and themselves.

Installed on one model by `answer_head`; the model asks for it as for any attention of transformers, and
for batches without a layout it is the model's own. Exact: every score that counts is computed once, none
that does not, and there is no mask of all tokens by all tokens. Works under gradient checkpointing, since
the layout reaches each layer as an argument.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune_trainer.fast import packed_attention
from finetune_trainer.fast.packed_attention import ARCHITECTURES
from finetune_trainer.fast.prefixes import Group, Layout
from finetune_trainer.foreign import Foreign, Model

NAME = "finetune_shared_prefixes"
REPLACED = "sdpa"


def install(model: Model) -> None:
    """Let one model take layouts, if `why_not` has nothing against it."""
    if model.config._attn_implementation == packed_attention.NAME:
        return
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def why_not(model: Model, longest: int) -> str | None:
    """What is against layouts for a model; None if nothing is.

    Args:
        model: A causal language model.
        longest: Tokens of the longest row.
    """
    config = model.config
    if config.model_type not in ARCHITECTURES:
        return f"the layers of {config.model_type} are not known to take it"
    if config._attn_implementation == packed_attention.NAME:
        return None
    if config._attn_implementation not in (REPLACED, NAME):
        return f"the attention is {config._attn_implementation}"
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and longest > window:
        return f"rows are longer than the window of {window} tokens"
    return None


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Foreign,
) -> tuple[Tensor, None]:
    """As transformers' attentions; with a layout, of one long row (1, heads, tokens, width)."""
    if layout is None:
        given = (module, query, key, value, attention_mask)
        options |= {"scaling": scaling, "dropout": dropout}
        found: tuple[Tensor, None] = sdpa_attention_forward(*given, **options)
        return found
    layout.layers += 1
    seen = attend(query, key, value, layout, scaling, dropout=dropout)
    return seen.transpose(1, 2).contiguous(), None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scale: float | None,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of one long row, in the shape of the query: (1, heads, tokens, width).

    Args:
        query: Of all tokens.
        key: Of all tokens, (1, key heads, tokens, width).
        value: As `key`.
        layout: How the row is divided.
        scale: Of the scores; by the width of a head without it.
        dropout: The probability that a token does not see another.
    """
    see = partial(_causal, scale=scale, dropout=dropout)
    sizes = [size for group in layout.groups for size in _spans(group)]
    parts = zip(*(torch.split(each, sizes, 2) for each in (query, key, value)), strict=True)
    found: list[Tensor] = []
    for group in layout.groups:
        found += _of_group(group, parts, see)
    return torch.cat(found, 2)


def _spans(group: Group) -> list[int]:
    """The prefix and each answer, whose attention is computed apart."""
    return [group.prefix, *group.answers]


def _of_group(
    group: Group, parts: Iterator[tuple[Tensor, Tensor, Tensor]], see: Callable[..., Tensor]
) -> Iterator[Tensor]:
    query, key, value = next(parts)
    if group.prefix:
        yield see(query, key, value)
    for length in group.answers:
        own_query, own_key, own_value = next(parts)
        if not length:
            continue
        if group.prefix:
            own_key, own_value = torch.cat([key, own_key], 2), torch.cat([value, own_value], 2)
        yield see(own_query, own_key, own_value)


def _causal(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float | None, dropout: float
) -> Tensor:
    """The last query sees all keys, the one before it all but one, and so on."""
    tokens, seen = query.shape[2], key.shape[2]
    mask = None
    if tokens != seen and tokens > 1:
        mask = torch.ones(tokens, seen, dtype=torch.bool, device=query.device).tril(seen - tokens)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is not None and query.is_cuda:
        # Kernels that save memory take a mask or groups of heads, not both.
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None and tokens > 1,
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )
