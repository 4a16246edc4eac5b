"""Tensors of a model of which each process holds a part, made whole. Called by whatever reads or saves."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from finetune_trainer import processes, zero
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


def shape(tensor: torch.Tensor) -> torch.Size:
    """The shape of the whole of a tensor."""
    return zero.shape(tensor) if zero.is_spread(tensor) else tensor.shape


def from_main(held: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor that rank 0 holds, for each process. All processes must call this.

    Args:
        held: What rank 0 has; the others' are not looked at.
        like: Has its shape, dtype and device.
    """
    told = torch.empty(shape(like), dtype=like.dtype, device=like.device)
    if held is not None:
        told.copy_(held)
    if processes.world_size() > 1:
        dist.broadcast(told, 0)
    return told


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
