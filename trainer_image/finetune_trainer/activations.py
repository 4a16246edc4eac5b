"""What the layers of a model keep for the backward pass, in bytes: counted from shapes, never measured.

Called by `memory`. The counts are of plain transformers layers with PEFT's adapters, and of our LoRA blocks.
A test counts what autograd really saves and compares.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer.fast import recompute
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.recomputation import LayerMemory
from finetune_trainer.resolve import Settings

WIDTHS = {"Float32": 4, "BFloat16": 2}
"""Bytes of a number."""
# Tensors as wide as the feed-forward block: gate, up, activation, product; or the steps of a GELU.
_GATED, _PLAIN = 4, 5
# Our LoRA block of a gated unit computes the others again.
_OF_LORA_BLOCKS = 2
# Bytes of each score that is not thrown away: in float32 before and after dropout, and its mask.
_SCORE_BYTES = 20


@dataclass(frozen=True)
class Pass:
    """The largest forward pass of a run.

    Attributes:
        tokens: Whose activations the layers keep.
        chunked: Whether the loss is read from hidden states, and logits exist a few rows at a time.
        flat: Whether its rows stand in one row, each attending to itself.
        lora_blocks: Whether layers run the LoRA blocks of `finetune_kernels`, which keep less.
    """

    tokens: int
    chunked: bool
    flat: bool = False
    lora_blocks: bool = False


def of_layers(
    outline: Model, config: ModelConfig, tuning: Tuning, settings: Settings, largest: Pass
) -> LayerMemory:
    """What a forward pass leaves.

    Args:
        outline: The model with its adapter, on the meta device.
        config: Of the base model.
        tuning: What is trained.
        settings: All settings.
        largest: The pass.
    """
    shape = Shape.of(outline, config, settings, largest)
    kept = round(largest.tokens * _layer(shape, outline, tuning, settings))
    # The residual stream is as wide as the weights; bfloat16 is the arithmetic's alone.
    block_input = largest.tokens * WIDTHS[settings.weights] * shape.hidden
    working = largest.tokens * _working(shape, settings)
    return LayerMemory(shape.layers, kept, block_input, working=working)


def without_gradients(outline: Model, config: ModelConfig, settings: Settings, tokens: int) -> int:
    """The most bytes that a pass without gradients takes: one layer, since none keeps anything.

    Args:
        outline: The model, on the meta device.
        config: Of the model.
        settings: All settings.
        tokens: Of the pass.
    """
    shape, width = Shape.of(outline, config, settings), WIDTHS[settings.precision]
    # Residual stream before and after, a norm in float32; queries, keys, values of rotated and plain ones.
    hidden = 2 * WIDTHS[settings.weights] * shape.hidden + 12 * shape.hidden
    attention = 3 * (shape.queries + 2 * shape.keys) * width
    wide = _GATED * shape.inner * width
    return tokens * (hidden + max(attention, wide))


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, in numbers a token.

    Attributes:
        hidden: Of the residual stream.
        inner: Of the feed-forward block.
        layers: How many there are.
        queries: Of all heads.
        keys: Of all heads that have keys of their own; values are as many.
        heads: How many.
        norms: Inputs of the norms of a layer, together.
        gated: Whether the feed-forward block is.
        crossed: Whether decoder layers attend to an encoder too.
        scores: For each token, where attention keeps its scores; else 0.
        lora_blocks: As in `Pass`.
    """

    hidden: int
    inner: int
    layers: int
    queries: int
    keys: int
    heads: int
    norms: int
    gated: bool
    crossed: bool
    scores: int
    lora_blocks: bool

    @classmethod
    def of(
        cls,
        outline: Model,
        config: ModelConfig,
        settings: Settings,
        largest: Pass = Pass(0, chunked=False),
    ) -> "Shape":
        """The sizes of a model; the arguments are those of `of_layers`."""
        text = config.get_text_config()
        hidden, heads = text.hidden_size, text.num_attention_heads
        width = getattr(text, "head_dim", None) or getattr(text, "d_kv", None) or hidden // heads
        keys = width * (getattr(text, "num_key_value_heads", None) or heads)
        names = {name.rpartition(".")[2] for name, _ in outline.named_modules()}
        crossed = bool(getattr(text, "is_encoder_decoder", False))
        norms = (3 if crossed else 2) * hidden
        return cls(
            hidden=hidden,
            inner=inner_width(config),
            layers=len(recompute.layers_of(outline)) or layers_of(config),
            queries=width * heads,
            keys=keys,
            heads=heads,
            norms=norms + (width * heads + keys if "q_norm" in names else 0),
            gated=bool(names & {"gate_proj", "gate_up_proj", "wi_1"}),
            crossed=crossed,
            scores=_scores(outline, config, settings, heads, flat=largest.flat),
            lora_blocks=largest.lora_blocks,
        )


def inner_width(config: ModelConfig) -> int:
    """Width of the feed-forward blocks that a token goes through."""
    text = config.get_text_config()
    # Each family has its own name for it, or none for 4 times the hidden size.
    widths = (getattr(text, name, None) for name in ("intermediate_size", "n_inner", "d_ff"))
    inner = next((width for width in widths if width), 4 * text.hidden_size)
    experts = getattr(text, "num_experts_per_tok", None) or 0
    return int(max(inner, experts * (getattr(text, "moe_intermediate_size", None) or inner)))


def layers_of(config: ModelConfig) -> int:
    """Layers, of encoder and decoder together."""
    text = config.get_text_config()
    return int(text.num_hidden_layers + (getattr(text, "num_decoder_layers", None) or 0))


def _scores(
    outline: Model, config: ModelConfig, settings: Settings, heads: int, *, flat: bool
) -> int:
    text = config.get_text_config()
    names = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate")
    dropout = any(getattr(text, name, 0) for name in names)
    # With dropout, PyTorch has no kernel on the CPU that throws them away.
    kept = dropout and settings.device == "cpu"
    plain = not flat and getattr(outline.config, "_attn_implementation", None) == "eager"
    return heads * settings.max_length if kept or plain else 0


def _layer(shape: Shape, outline: Model, tuning: Tuning, settings: Settings) -> float:
    """Bytes a token of one layer."""
    width, full = WIDTHS[settings.precision], tuning.type == "Full"
    half = width == WIDTHS["BFloat16"]
    # Norms compute in float32: their input, and what is scaled where the scale is trained.
    norms = shape.norms * (8 if full else 4) + 2 * shape.hidden * width
    attention = (3 * shape.queries + 2 * shape.keys) * (2 if shape.crossed else 1)
    # Where weights are float32, rotary embeddings are, and so are queries and keys.
    attention *= WIDTHS[settings.weights] if full else width
    wide = _OF_LORA_BLOCKS if shape.lora_blocks else _GATED if shape.gated else _PLAIN
    block = wide * shape.inner * width
    # A factor a row and norm, the sum of a head; masks of dropout.
    small = 4 * (6 * shape.heads + 4) + (0 if shape.gated else 3 * shape.hidden)
    adapter = 0.0 if full else _adapter(shape, outline, tuning, settings, half=half)
    return norms + attention + block + small + adapter + _SCORE_BYTES * shape.scores


def _working(shape: Shape, settings: Settings) -> int:
    """Bytes a token that the backward pass of a layer takes: gradients, and what is computed again inside."""
    width = WIDTHS[settings.precision]
    wide = 3 if shape.lora_blocks else 1 if shape.gated else 2
    # Norms and the residual stream go back in float32.
    return (wide * shape.inner + 2 * shape.hidden) * width + 20 * shape.hidden


def _adapter(
    shape: Shape, outline: Model, tuning: Tuning, settings: Settings, *, half: bool
) -> float:
    """Bytes a token that an adapter adds to a layer."""
    width = WIDTHS[settings.precision]
    found = 4 * sum(_inner_widths(outline)) / shape.layers
    if half and not shape.lora_blocks:
        # PEFT casts its input to the adapter's dtype, and autocast casts that back.
        found += width * (2 * shape.hidden + shape.queries + shape.inner)
    if tuning.type in ("IA3", "Other"):
        found += width * (2 * shape.keys + shape.queries + shape.inner)
    if tuning.lora and tuning.lora.dropout:
        # Each target drops an input of its own, and keeps the mask: on the CPU, as numbers.
        mask = width if settings.device == "cpu" else 1
        found += (width + mask) * sum(_sides(outline, "lora_A")) / shape.layers
    if tuning.lora and tuning.lora.variant == "DoRA":
        # Both results are scaled, and kept for the gradient of the scale.
        found += 2 * width * sum(_sides(outline, "lora_B")) / shape.layers
    return found


def _inner_widths(outline: Model) -> Iterable[int]:
    """Ranks: the smaller side of what an adapter trains, half for each of two matrices."""
    for parameter in outline.parameters():
        if parameter.requires_grad and parameter.dim() > 1:
            yield min(parameter.shape) // 2


def _sides(outline: Model, matrix: str) -> Iterable[int]:
    """The longer side of these matrices: features of the layers that they adapt."""
    for name, parameter in outline.named_parameters():
        if matrix in name:
            yield max(parameter.shape)
