"""What processes take for each other while they train, in bytes a device: gathered weights, and buffers.

Called by `memory`. Activations, and the parts that each process holds for good, are counted there. Counted
from what `strategies` and `zero_config` ask for; nothing is measured here.
"""

from collections.abc import Iterable

from torch import nn

from finetune_trainer.fast import recompute
from finetune_trainer.foreign import Model
from finetune_trainer.layer_shape import WIDTHS
from finetune_trainer.resolve import Settings
from finetune_trainer.zero_config import BUCKET

# DeepSpeed's `stage3_max_live_parameters` and `stage3_max_reuse_distance`, which nobody changes: what is
# needed again so soon stays whole.
_ZERO_LIVE = 1_000_000_000
_GRADIENT = 4


def between_processes(outline: Model, settings: Settings) -> int:
    """Bytes on each device for what is gathered from other processes and sent to them.

    Args:
        outline: The model with its adapter, on the meta device.
        settings: With their strategy.
    """
    name = settings.strategy.name
    trained = _numbers(each for each in outline.parameters() if each.requires_grad)
    if name == "DDP":
        # Buckets, out of which gradients are copied.
        return _GRADIENT * trained
    if name == "FSDP":
        return _fsdp(outline, settings)
    if not settings.strategy.zero:
        return 0
    # While one bucket is sent, the next one fills; it is as large whatever the model is.
    buckets = (2 if settings.device == "cuda" else 1) * _GRADIENT * BUCKET
    return buckets + (_zero3(outline, settings) if name == "ZeRO3" else 0)


def _fsdp(outline: Model, settings: Settings) -> int:
    """Of torch's `fully_shard`: accelerate takes layers, embeddings and output layer each for itself."""
    layers = recompute.layers_of(outline) or [outline]
    layer = max(_bytes(each.parameters(), settings) for each in layers)
    trained = max(_numbers(p for p in each.parameters() if p.requires_grad) for each in layers)
    inside = {id(each) for one in layers for each in one.parameters()}
    embeddings = _own(outline.get_input_embeddings()) - _own(outline.get_output_embeddings())
    others = [each for each in outline.parameters() if id(each) not in inside]
    first = _bytes((each for each in others if id(each) in embeddings), settings)
    last = _bytes((each for each in others if id(each) not in embeddings), settings)
    # One layer computes and the next one arrives; gradients of one are summed while those of the one before
    # are sent; the output layer stays from the end of the forward pass on.
    return max(2 * layer + 2 * _GRADIENT * trained + last, first)


def _zero3(outline: Model, settings: Settings) -> int:
    """Weights that are whole at one time, each in its own dtype, and what autocast makes of them."""
    frozen = _numbers(each for each in outline.parameters() if not each.requires_grad)
    trained = _numbers(each for each in outline.parameters() if each.requires_grad)
    share = min(1.0, _ZERO_LIVE / max(1, frozen + trained))
    gathered = WIDTHS[settings.weights] * frozen + WIDTHS["Float32"] * trained
    casts = 2 * trained if settings.precision == "BFloat16" else 0
    return round(share * gathered) + casts


def kept_of_layer(outline: Model, settings: Settings) -> int:
    """Bytes of what autocast makes of a layer's trained weights: FSDP lets go of these, and not of that.

    A layer that computes again keeps none of it.
    """
    if settings.strategy.name != "FSDP" or settings.precision != "BFloat16":
        return 0
    layers = recompute.layers_of(outline) or [outline]
    return 2 * max(_numbers(p for p in each.parameters() if p.requires_grad) for each in layers)


def _bytes(parameters: Iterable[nn.Parameter], settings: Settings) -> int:
    """Of weights, each in its own dtype."""
    own = {True: WIDTHS["Float32"], False: WIDTHS[settings.weights]}
    return sum(own[each.requires_grad] * each.numel() for each in parameters)


def _own(module: nn.Module | None) -> set[int]:
    return {id(each) for each in module.parameters()} if module is not None else set()


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(each.numel() for each in parameters)
