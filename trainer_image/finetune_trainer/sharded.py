"""Tensors of a model of which each process holds a part, made whole. Called by whatever reads or saves."""

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor, of which this process may hold a part; then all must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """All tensors of a sharded model by name, on the CPU; None for one that is not sharded."""
    if not isinstance(model, FSDPModule):
        return None
    return {name: whole(each.detach()).cpu() for name, each in model.state_dict().items()}
