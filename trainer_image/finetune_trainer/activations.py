"""What the layers of a model keep for the backward pass, in bytes: counted from shapes, never measured.

Called by `memory`. The counts are of plain transformers layers with PEFT's adapters, and of our LoRA blocks.
A test counts what autograd really saves and compares.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer.fast import recompute
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.recomputation import LayerMemory
from finetune_trainer.resolve import Settings

WIDTHS = {"Float32": 4, "BFloat16": 2}
"""Bytes of a number."""
# Tensors as wide as the feed-forward block: gate, up, activation, product; or the steps of a GELU in Python.
_GATED, _STEPS = 4, 5
# Activations that are one operation: before and after it.
_WHOLE = ("gelu", "gelu_pytorch_tanh", "relu", "silu", "tanh")
_PLAIN = 2
# T5's activation, the mask of its dropout, and what that leaves.
_WITH_DROPOUT = 3
# Our LoRA block of a gated unit computes the others again.
_OF_LORA_BLOCKS = 2
# Bytes of each score that is not thrown away: in float32 before and after dropout, and its mask.
_SCORE_BYTES = 12
# And of two gradients of it.
_SCORE_WORKING = 8


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
    working = largest.tokens * _working(shape, settings) + _weight_gradients(shape, outline, tuning)
    working += _norms_of_dora(outline, tuning, settings)
    found = LayerMemory(shape.layers, kept, block_input, working=working)
    if not shape.crossed:
        return found
    encoder = shape.of_the_encoder()
    light = round(largest.tokens * _layer(encoder, outline, tuning, settings))
    return replace(found, light=encoder.depth, kept_light=light)


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
        plain: Tensors as wide as one that is not gated.
        experts: Whose feed-forward blocks a token goes through; 0 where there is one block.
        rotary: Whether queries and keys are rotated.
        whole_norms: Whether a norm is one operation.
        crossed: Whether decoder layers attend to an encoder too.
        encoders: Layers of that encoder.
        stack: Part of the names of layers of this kind; empty where all are.
        depth: How many of this kind there are.
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
    plain: int
    experts: int
    rotary: bool
    whole_norms: bool
    crossed: bool
    encoders: int
    stack: str
    depth: int
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
        # Weights of experts are no modules.
        gates = {name.rpartition(".")[2] for name, _ in outline.named_parameters()}
        crossed = bool(getattr(text, "is_encoder_decoder", False))
        norms = (3 if crossed else 2) * hidden
        layers = len(recompute.layers_of(outline)) or layers_of(config)
        encoders = int(text.num_hidden_layers) if crossed else 0
        return cls(
            hidden=hidden,
            inner=inner_width(config),
            layers=layers,
            queries=width * heads,
            keys=keys,
            heads=heads,
            norms=norms + (width * heads + keys if "q_norm" in names else 0),
            gated=bool((names | gates) & {"gate_proj", "gate_up_proj", "wi_1"}),
            plain=_plain(text, crossed=crossed),
            experts=getattr(text, "num_experts_per_tok", None) or 0,
            rotary="rotary_emb" in names,
            whole_norms=any(isinstance(each, nn.LayerNorm) for each in outline.modules()),
            crossed=crossed,
            encoders=encoders,
            stack="decoder." if crossed else "",
            depth=max(1, layers - encoders),
            scores=_scores(outline, config, settings, heads, flat=largest.flat),
            lora_blocks=largest.lora_blocks,
        )

    def of_the_encoder(self) -> "Shape":
        """The sizes of an encoder's layers, where these are of its decoder's."""
        norms = self.norms - self.hidden
        return replace(self, crossed=False, norms=norms, stack="encoder.", depth=self.encoders)


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


def _plain(text: ModelConfig, *, crossed: bool) -> int:
    """Tensors as wide as a feed-forward block without a gate."""
    names = ("hidden_act", "activation_function", "dense_act_fn")
    activation = next((found for name in names if (found := getattr(text, name, None))), None)
    if activation not in _WHOLE:
        return _STEPS
    return _WITH_DROPOUT if crossed else _PLAIN


def _layer(shape: Shape, outline: Model, tuning: Tuning, settings: Settings) -> float:
    """Bytes a token of one layer."""
    width, full = WIDTHS[settings.precision], tuning.type == "Full"
    # Norms compute in float32: their input, and what is scaled where the scale is trained.
    norms = shape.norms * (8 if full and not shape.whole_norms else 4)
    # Projections that are frozen, and have no adapter beside them, do not keep their input.
    norms += 0 if tuning.type == "IA3" else 2 * shape.hidden * width
    attention = (3 * shape.queries + 2 * shape.keys) * (2 if shape.crossed else 1)
    # Where weights are float32, rotary embeddings are, and so are queries and keys.
    attention *= WIDTHS[settings.weights] if full and shape.rotary else width
    # A factor a row and norm, the sum of a head; masks of dropout.
    small = 4 * (6 * shape.heads + 4) + (0 if shape.gated else 3 * shape.hidden) * 4
    scores = _SCORE_BYTES * shape.scores * (2 if shape.crossed else 1)
    adapter = 0.0 if full else _adapter(shape, outline, tuning, settings)
    return norms + attention + _block(shape, settings, full=full) + small + adapter + scores


def _block(shape: Shape, settings: Settings, *, full: bool) -> int:
    """Bytes a token of the feed-forward block."""
    width = WIDTHS[settings.precision]
    if shape.experts:
        # Autocast leaves experts alone. They keep the product, and what they were given, if they are trained.
        own = WIDTHS[settings.weights]
        routed = shape.experts * shape.hidden * (2 if full else 1)
        return own * ((_GATED if full else _GATED - 1) * shape.inner + routed)
    wide = _OF_LORA_BLOCKS if shape.lora_blocks else _GATED if shape.gated else shape.plain
    # T5's last projection is in float32, whatever the others are.
    cast = 4 * shape.inner if shape.plain == _WITH_DROPOUT and width < WIDTHS["Float32"] else 0
    return wide * shape.inner * width + cast


def _working(shape: Shape, settings: Settings) -> int:
    """Bytes a token that the backward pass of a layer takes: gradients, and what is computed again inside."""
    width = WIDTHS[settings.weights if shape.experts else settings.precision]
    wide = 3 if shape.lora_blocks else 1 if shape.gated else 2
    # Norms and the residual stream go back in float32.
    stream = 2 * shape.hidden * width + 20 * shape.hidden
    stream += shape.experts * shape.hidden * width
    scores = _SCORE_WORKING * shape.scores * (2 if shape.crossed else 1)
    return wide * shape.inner * width + stream + scores


def _weight_gradients(shape: Shape, outline: Model, tuning: Tuning) -> int:
    """Bytes of gradients of weights before they are added to those of passes before."""
    inside = {id(p) for each in recompute.layers_of(outline) for p in each.parameters()}
    trained = (p for name, p in outline.named_parameters() if _trained_in(shape, name, p))
    own = [each.numel() for each in trained if id(each) in inside]
    if tuning.type == "Full":
        return 4 * max(own, default=0)
    # A layer's are computed together; AdaLoRA scales its matrices first, and keeps the result.
    return (20 if tuning.type == "AdaLoRA" else 8) * sum(own) // shape.depth


def _trained_in(shape: Shape, name: str, parameter: nn.Parameter) -> bool:
    """Whether it is trained, and of a layer of this kind."""
    return parameter.requires_grad and parameter.dim() > 1 and shape.stack in name


def _norms_of_dora(outline: Model, tuning: Tuning, settings: Settings) -> int:
    """Bytes for which PEFT's DoRA makes the product of its two matrices, to know the norm of the sum.

    It multiplies the identity by both, and keeps that as long as the layer computes.
    """
    if not tuning.lora or tuning.lora.variant != "DoRA":
        return 0
    inputs = {n.rpartition(".lora_A.")[0]: p.shape[1] for n, p in _matrices(outline, "lora_A")}
    outputs = {n.rpartition(".lora_B.")[0]: p.shape[0] for n, p in _matrices(outline, "lora_B")}
    # In float32: the product, the same scaled, and the sum; the identity, which autocast has twice.
    one = 6 if settings.precision == "BFloat16" else 4
    return max(one * inputs[n] ** 2 + 12 * inputs[n] * outputs[n] for n in inputs)


def _adapter(shape: Shape, outline: Model, tuning: Tuning, settings: Settings) -> float:
    """Bytes a token that an adapter adds to a layer."""
    width = WIDTHS[settings.precision]
    half = width == WIDTHS["BFloat16"]
    if tuning.type == "IA3":
        return _ia3(shape, outline, half=half)
    found = 4 * sum(_inner_widths(shape, outline)) / shape.depth
    if half and not shape.lora_blocks:
        # PEFT casts its input to the adapter's dtype, and autocast casts that back.
        found += width * (2 * shape.hidden + shape.queries + shape.inner)
    if tuning.type == "Other":
        found += width * (2 * shape.keys + shape.queries + shape.inner)
    if tuning.lora and tuning.lora.dropout:
        # Each target drops an input of its own, and keeps the mask: on the CPU, as numbers.
        mask = width if settings.device == "cpu" else 1
        found += (width + mask) * sum(_sides(shape, outline, "lora_A")) / shape.depth
    if tuning.lora and tuning.lora.variant == "DoRA":
        # Both results are scaled, and kept for the gradient of the scale.
        found += 2 * width * sum(_sides(shape, outline, "lora_B")) / shape.depth
    return found


def _ia3(shape: Shape, outline: Model, *, half: bool) -> float:
    """Bytes a token of what is scaled: results in float32; inputs are kept anyway, but in bfloat16 cast."""
    scales = [each for name, each in _matrices(outline, "ia3_l") if shape.stack in name]
    results = sum(each.numel() for each in scales if each.shape[-1] == 1)
    inputs = sum(each.numel() for each in scales if each.shape[-1] > 1)
    return (4 * results + (2 * inputs if half else 0)) / shape.depth


def _inner_widths(shape: Shape, outline: Model) -> Iterable[int]:
    """Ranks: the smaller side of what an adapter trains, half for each of two matrices."""
    for name, parameter in outline.named_parameters():
        if _trained_in(shape, name, parameter):
            yield min(parameter.shape) // 2


def _sides(shape: Shape, outline: Model, matrix: str) -> Iterable[int]:
    """The longer side of these matrices: features of the layers that they adapt."""
    for name, parameter in _matrices(outline, matrix):
        if shape.stack in name:
            yield max(parameter.shape)


def _matrices(outline: Model, name: str) -> Iterable[tuple[str, nn.Parameter]]:
    return ((own, each) for own, each in outline.named_parameters() if f"{name}." in own)
