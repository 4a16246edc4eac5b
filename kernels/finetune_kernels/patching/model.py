"""Put our operations into one model: which layers, how many, which not, and back again.

`patch` is what the trainer calls. It exchanges forwards of module instances (`patching.replacement`) for
the layers that have operations (`patching.choices`), and says of the others that it knows why not.
Parameters, names and state dicts do not change. It does not touch the head and the loss.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from finetune_kernels.launch import kernels_run_on
from finetune_kernels.patching.choices import Kernels, Left, choose
from finetune_kernels.patching.replacement import Replacement, replace_forward


@dataclass(frozen=True)
class Patch:
    """What `patch` did to a model.

    Attributes:
        kernels: Which kind of kernels the patched layers run.
        layers: How many layers were patched, by operation.
        left: Layers that were left alone: what they are, and why.
    """

    kernels: Kernels
    layers: Mapping[str, int]
    left: Mapping[str, str]
    _replacements: tuple[Replacement, ...] = ()

    def undo(self) -> None:
        """Make the model what it was. Layers that somebody else patched since stay as they are."""
        for replacement in self._replacements:
            replacement.undo()


def patch(model: nn.Module, kernels: Kernels = "Triton") -> Patch:
    """Exchange the layers of this model that have an operation of ours.

    Call it after adapters are added and before the model is wrapped for several processes.

    Args:
        model: Any model of transformers, with adapters of PEFT or without. No other instance changes.
        kernels: `Triton`: GPU kernels, and adapters with gradients written by hand. `Torch`: only the
            latter, on any device.

    Returns:
        What was patched, what was left alone and why, and the way back.

    Raises:
        ValueError: `Triton` was asked for, and the model's device runs no Triton kernels.
    """
    if kernels == "Triton":
        _require_kernels(model)
    made, counts, left = [], Counter[str](), dict[str, str]()
    for module in model.modules():
        choice = choose(module, kernels)
        if isinstance(choice, Left):
            left[choice.what] = choice.why
        elif choice is not None:
            made.append(replace_forward(module, choice.forward))
            counts.update(choice.operations)
    return Patch(kernels, MappingProxyType(dict(counts)), MappingProxyType(left), tuple(made))


def _require_kernels(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not kernels_run_on(parameter):
            raise ValueError(
                f"Triton kernels need a GPU, and {name} is on {parameter.device}; "
                "move the model, or ask for kernels='Torch'"
            )
