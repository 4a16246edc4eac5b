"""Tensors of a model of which each process holds a part, made whole. Called by whatever reads or saves."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from finetune_trainer import zero
from finetune_trainer.foreign import Model


def unwrapped(model: Model) -> Model:
    """The model itself, within what computes its gradients together with other processes."""
    wrapped = isinstance(model, DistributedDataParallel) or zero.is_engine(model)
    return model.module if wrapped else model


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor, of which this process may hold a part; then all must call this."""
    if zero.is_spread(tensor):
        return zero.whole(tensor)
    held = tensor.detach()
    return held.full_tensor() if isinstance(held, DTensor) else held


def whole_state(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """All tensors of a divided model by name, on the CPU; None for one that each process holds whole."""
    if isinstance(model, FSDPModule):
        return {name: whole(each).cpu() for name, each in model.state_dict().items()}
    if any(map(zero.is_spread, model.parameters())):
        return dict(_of_zero(model))
    return None


def _of_zero(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    # What the state holds of them is empty.
    for name, held in model.state_dict().items():
        yield name, whole(parameters.get(name, held)).cpu()
