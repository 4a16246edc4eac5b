"""The tensors of a model that training changes, and those that its adapter cannot be without.

Used by trainers for their part of a checkpoint. The base model is not stored: it is fetched again.
"""

from collections.abc import Mapping

import torch

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import zero
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.resume.sharding import spread_as
from finetune_trainer.sharded import shape

# Starts that were computed from the base: another machine may round them otherwise.
_STARTS = (".start_A", ".start_B")


def of(model: Model) -> dict[str, torch.Tensor]:
    """The tensors by name."""
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    starts = {name: each for name, each in model.named_buffers() if name.endswith(_STARTS)}
    return trained | starts


@torch.no_grad()
def restore(model: Model, stored: Mapping[str, torch.Tensor]) -> None:
    """Give the model the stored tensors.

    Raises:
        TrainerError: ResumeIncompatible if the model has other ones.
    """
    mine = of(model)
    wrong = sorted({*mine} ^ {*stored})
    wrong += [n for n in mine if n in stored and shape(mine[n]) != stored[n].shape]
    if wrong:
        message = f"{len(wrong)} tensors of the checkpoint are not those of the model: {wrong[0]}"
        raise TrainerError(Reason.RESUME_INCOMPATIBLE, message)
    for name, tensor in mine.items():
        with zero.changing(tensor):
            tensor.copy_(spread_as(stored[name], tensor))
