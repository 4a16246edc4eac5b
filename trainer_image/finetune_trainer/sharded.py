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


def layer_classes(model: Model) -> list[str]:
    """Names of the classes of layers that FSDP gathers one by one.

    The library names them, and for encoders the embeddings among them, which accelerate divides by itself.
    """
    named, embeddings = set(model._no_split_modules or ()), model.get_input_embeddings()
    layers = {type(each).__name__: each for each in model.modules() if type(each).__name__ in named}
    return sorted(name for name, layer in layers.items() if embeddings not in set(layer.modules()))


def divide_again(model: nn.Module) -> None:
    """Let go of whole tensors that FSDP keeps from one pass to the next; what is not its stays as it is."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_state(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """All tensors of a divided model by name, on the CPU; None for one that each process holds whole.

    A parameter with several names is one tensor, so that it is stored once.
    """
    if isinstance(model, FSDPModule) or any(map(zero.is_spread, model.parameters())):
        return dict(_whole_by_name(model))
    return None


def _whole_by_name(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    # What the state holds of ZeRO's parameters is empty; of FSDP's, the whole ones lose what they hold.
    divide_again(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    known: dict[int, torch.Tensor] = {}
    for name, held in model.state_dict().items():
        parameter = parameters.get(name, held)
        if id(parameter) not in known:
            known[id(parameter)] = whole(parameter).cpu()
        yield name, known[id(parameter)]
