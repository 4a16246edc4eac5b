"""The parts of a model through which hidden states go, and how each is made what it was before training.

Called by `reference_lane`, which runs each part for policy and reference. PEFT and PyTorch switch whole
models: too much for every layer of every pass, and not while a graph holds what is switched.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from finetune_trainer.fast.head import base_of
from finetune_trainer.fast.recompute import layers_of
from finetune_trainer.foreign import Foreign, Model

SWITCHED = (BaseTunerLayer, AuxiliaryTrainingWrapper)
"""What PEFT puts into a model: layers with adapters, and trained copies of whole modules."""
_PARTS = "switched_parts"


@dataclass(frozen=True)
class Part:
    """A part of a model, and what of it must be switched for the lane.

    Attributes:
        module: The part.
        inside: All modules in it.
        adapters: Those that have an adapter, or a trained copy, to be switched off.
    """

    module: nn.Module
    inside: tuple[nn.Module, ...]
    adapters: tuple[Foreign, ...]

    @classmethod
    def of(cls, module: nn.Module) -> "Part":
        """The part that a module is."""
        inside = tuple(module.modules())
        return cls(module, inside, tuple(each for each in inside if isinstance(each, SWITCHED)))

    @contextmanager
    def before_training(self) -> Iterator[None]:
        """As it was before training, in evaluation mode and without gradients."""
        training = [each for each in self.inside if each.training]
        on = [each for each in self.adapters if not each.disable_adapters]
        # What is cast without gradients must not be taken for weights that are trained.
        cached = torch.is_autocast_cache_enabled()
        turn(training, on, to=False)
        torch.set_autocast_cache_enabled(False)
        try:
            with torch.no_grad():
                yield
        finally:
            torch.set_autocast_cache_enabled(cached)
            turn(training, on, to=True)


def turn(modules: Sequence[nn.Module], adapters: Sequence[Foreign], *, to: bool) -> None:
    """Training mode of modules, and adapters, on or off."""
    for module in modules:
        # nn.Module looks a name up in three tables before it sets one, which thin layers notice.
        module.__dict__["training"] = to
    for adapter in adapters:
        # PEFT's own switch would take the gradients off weights that the policy's graph holds.
        adapter._disable_adapters = not to


@dataclass(frozen=True)
class Backbone:
    """The parts of a model that hidden states go through.

    Attributes:
        model: All of it but the head.
        layers: One after the other.
        others: What stands before, after and beside them.
    """

    model: Model
    layers: tuple[Part, ...]
    others: tuple[Part, ...]

    @classmethod
    def of(cls, model: Model) -> "Backbone":
        """The parts of a language model for which `why_not` knows nothing."""
        backbone = base_of(model).base_model
        layers = layers_of(backbone)
        others = [
            each
            for each in backbone.children()
            if not isinstance(each, nn.ModuleList) or not set(layers) & set(each)
        ]
        return cls(backbone, tuple(map(Part.of, layers)), tuple(map(Part.of, others)))

    @property
    def enters_alike(self) -> bool:
        """Whether policy and reference give their first layer the same."""
        inside = [each for part in self.others for each in part.inside]
        dropout = any(isinstance(each, nn.Dropout) and each.training and each.p for each in inside)
        return not dropout and not any(part.adapters for part in self.others)


def parts_of(model: Model) -> Backbone:
    """The parts of a language model without wrappers, looked for once."""
    # A model has thousands of modules, which do not change while it is trained. They are kept in the model
    # itself, so that nothing of it outlives it.
    known: dict[str, Foreign] = model.__dict__
    if _PARTS not in known:
        known[_PARTS] = Backbone.of(model)
    parts: Backbone = known[_PARTS]
    return parts
