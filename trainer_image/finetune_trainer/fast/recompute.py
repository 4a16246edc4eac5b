"""Gradient checkpointing layer by layer: only the layers of a plan compute their activations again.

Installed on one model by `recipes.session`, before its trainer is built. Trainers of transformers and TRL
turn checkpointing on and off for all layers of a model, some in the middle of a step; here a model keeps to
its plan whoever turns it on. `recomputation` makes the plan.
"""

import inspect
from collections.abc import Callable
from functools import partial
from types import MethodType

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_trainer.fast.head import base_of
from finetune_trainer.fast.offload import BlockInputs
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.recomputation import Recomputation

_TURNED_BY = "_set_gradient_checkpointing"


def layers_of(model: Model) -> list[nn.Module]:
    """The layers that can compute their activations again, each for itself, in their order."""
    return [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]


def why_not(model: Model) -> str | None:
    """Why not each layer for itself; None if nothing is against it."""
    base = base_of(model)
    if not layers_of(base):
        return "its layers cannot be told apart"
    if "value" in inspect.signature(base._set_gradient_checkpointing).parameters:
        return "its class turns checkpointing on in an old way"
    return None


def install(model: Model, recomputation: Recomputation) -> None:
    """Keep a model to a plan, whenever checkpointing is turned on.

    Args:
        model: For which `why_not` knows nothing; wrapped by PEFT or not.
        recomputation: The plan, for as many layers as the model has.
    """
    base = base_of(model)
    layers = layers_of(base)
    if len(layers) != recomputation.of:
        raise ValueError(f"a plan for {recomputation.of} layers, but there are {len(layers)}")
    turn = getattr(type(base), _TURNED_BY)

    def turn_planned(
        self: Model,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Foreign] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        function = gradient_checkpointing_func
        if recomputation.offload:
            function = partial(BlockInputs(self.device).checkpoint, function)
        turn(self, enable, function, every_n_layers)
        for layer in layers_of(self)[recomputation.layers :]:
            layer.gradient_checkpointing = False  # type: ignore[assignment]

    setattr(base, _TURNED_BY, MethodType(turn_planned, base))


def remove(model: Model) -> None:
    """Take `install` back; checkpointing that is on stays as it is until it is turned on anew."""
    delattr(base_of(model), _TURNED_BY)
