"""Our attention as an `attn_implementation` of transformers, for images without flash-attn.

A model that it was installed on hands over long rows with a layout (`prefixes`), packed batches (position
ids that begin anew, or cumulative lengths), padded ones and those with a cache; documents never see each
other, and no mask of all tokens by all tokens exists. Chosen by `fast.kernels` where Triton kernels are
asked for. What the operation lacks (dropout, soft caps, sinks, bidirectional layers) is refused, never left
out.
"""

import weakref
from itertools import accumulate

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from finetune_kernels.ops import Documents, attention
from finetune_trainer.evaluation import autocast
from finetune_trainer.fast.prefixes import Layout
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.isolation import TOLERANCES
from finetune_trainer.resolve import Settings

NAME = "finetune_packed"
REPLACED = ("sdpa", "eager")
# Models whose layers hand the arguments of a call through to their attention, and mask nothing else.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")
LARGEST_HEAD = 256
_DROPOUTS = ("attention_dropout", "attn_pdrop")
# Tokens of a row on which it is tried: of several blocks of the kernels.
_TRIED = 160


def why_not(model: Model) -> str | None:
    """What is against this attention for a model; None if nothing is.

    Args:
        model: Of transformers, without wrappers.
    """
    config = model.config
    if config.model_type not in ARCHITECTURES:
        return f"the layers of {config.model_type} are not known to take it"
    if config._attn_implementation not in REPLACED:
        return f"the attention is {config._attn_implementation} already"
    heads, hidden = config.num_attention_heads, config.hidden_size
    if (getattr(config, "head_dim", None) or hidden // heads) > LARGEST_HEAD:
        return f"heads are wider than {LARGEST_HEAD}"
    if any(getattr(config, name, 0) for name in _DROPOUTS):
        return "it has no dropout of attention"
    return None


def try_on(model: Model, settings: Settings) -> str | None:
    """Install it if it gives what the present attention gives; else say why not, and leave that.

    Args:
        model: For which `why_not` knows nothing.
        settings: Of the run.
    """
    before, training = model.config._attn_implementation, model.training
    model.eval()
    expected = _tried(model, settings)
    install(model)
    found = _tried(model, settings)
    model.train(training)
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    if difference <= TOLERANCES[settings.precision]:
        return None
    model.set_attn_implementation(before)
    return f"logits differ by {difference:.2g} of the largest from those with {before}"


@torch.no_grad()
def _tried(model: Model, settings: Settings) -> Tensor:
    config = model.config
    row = torch.arange(min(_TRIED, config.max_position_embeddings), device=model.device)
    with autocast(settings):
        logits: Tensor = model(input_ids=row[None] % config.vocab_size, use_cache=False).logits
    return logits.float()


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
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Foreign,
) -> tuple[Tensor, None]:
    _refuse(module, dropout, options)
    batch, heads, length, size = query.shape
    if layout is None:
        spans = _documents(query, key, attention_mask, options)
    else:
        layout.layers += 1
        spans = _of_layout(layout, query.device)
        key, value = _with_prefixes(key, layout), _with_prefixes(value, layout)
    q, k, v = (t.transpose(1, 2).reshape(-1, t.shape[1], size) for t in _alike(query, key, value))
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


def _alike(query: Tensor, *others: Tensor) -> list[Tensor]:
    """Tensors in the dtype of the products: autocast does not know our operation."""
    device, dtype = query.device.type, query.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return [each.to(dtype) for each in (query, *others)]


def _of_layout(layout: Layout, device: torch.device) -> tuple[Documents, Documents]:
    """Spans of a long row of families, made once a batch: prompts, then answers after their prompts."""
    if layout.documents is None:
        queries, keys = [], []
        for group in layout.groups:
            queries += [group.prefix, *group.answers]
            keys += [group.prefix, *(group.prefix + length for length in group.answers)]
        layout.documents = _follow(queries, device), _follow(keys, device)
    found: tuple[Documents, Documents] = layout.documents
    return found


def _follow(lengths: list[int], device: torch.device) -> Documents:
    cumulative = torch.tensor([0, *accumulate(lengths)], device=device)
    return Documents.packed(cumulative, max(lengths))


def _with_prefixes(rows: Tensor, layout: Layout) -> Tensor:
    """Keys or values (1, heads, tokens, size), with those of a prompt before each of its answers."""
    if not any(group.prefix for group in layout.groups):
        return rows
    sizes = [size for group in layout.groups for size in (group.prefix, *group.answers)]
    parts = iter(torch.split(rows, sizes, 2))
    found = []
    for group in layout.groups:
        prefix = next(parts)
        found.append(prefix)
        for _ in group.answers:
            found += [prefix, next(parts)]
    return torch.cat(found, 2)


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
