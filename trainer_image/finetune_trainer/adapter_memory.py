"""What adapters add to the memory of layers, in bytes, and gradients of weights on their way.

Called by `activations`. The counts are of PEFT's adapters; tests hold them against what autograd saves.
"""

from collections.abc import Iterable

from torch import nn

from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer.fast import recompute
from finetune_trainer.foreign import Model
from finetune_trainer.layer_shape import WIDTHS, Shape
from finetune_trainer.resolve import Settings


def weight_gradients(shape: Shape, outline: Model, tuning: Tuning) -> int:
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


def norms_of_dora(outline: Model, tuning: Tuning, settings: Settings) -> int:
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


def kept(shape: Shape, outline: Model, tuning: Tuning, settings: Settings) -> float:
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
