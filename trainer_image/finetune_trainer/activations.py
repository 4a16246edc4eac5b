"""What the layers of a model keep for the backward pass, in bytes: counted from shapes, never measured.

Called by `memory`. The counts are of plain transformers layers with PEFT's adapters, and of our LoRA blocks.
A test counts what autograd really saves and compares.
"""

from dataclasses import replace

from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import adapter_memory
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.layer_shape import WIDTHS, WITH_DROPOUT, Pass, Shape
from finetune_trainer.recomputation import LayerMemory
from finetune_trainer.resolve import Settings

# Tensors as wide as a gated feed-forward block: gate, up, activation, product.
_GATED = 4
# Our LoRA block of a gated unit computes the others again.
_OF_LORA_BLOCKS = 2
# Bytes of each score that is not thrown away: in float32 before and after dropout, and its mask.
_SCORE_BYTES = 12
# And of two gradients of it.
_SCORE_WORKING = 8


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
    working = largest.tokens * _working(shape, settings) + adapter_memory.weight_gradients(
        shape, outline, tuning
    )
    working += adapter_memory.norms_of_dora(outline, tuning, settings)
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
    adapter = 0.0 if full else adapter_memory.kept(shape, outline, tuning, settings)
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
    cast = 4 * shape.inner if shape.plain == WITH_DROPOUT and width < WIDTHS["Float32"] else 0
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
