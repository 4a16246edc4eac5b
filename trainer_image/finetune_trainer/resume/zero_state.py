"""The optimiser of DeepSpeed's ZeRO in the form in which torch's own stores its state, and back.

Used by `trainer` for its part of a checkpoint. DeepSpeed steps flat pieces of many parameters, of which
each process has its own; here every moment is whole and belongs to one parameter. So a run can go on
with another number of processes, and without DeepSpeed. Trained parameters are float32 as everywhere in
this trainer, so that a piece holds the very numbers of the weights and need not be stored beside them.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import pad

from finetune_trainer import zero
from finetune_trainer.foreign import Foreign
from finetune_trainer.sharded import shape

State = dict[str, Any]
# Settings of a group that are no matter of a checkpoint.
_OTHERS = ("params", "_ds_source_param_group_id")


@dataclass(frozen=True)
class _Piece:
    """What torch's optimiser takes for one parameter.

    Attributes:
        group: Number of its group.
        parameters: Of which this is this process's part, by their numbers in the whole optimiser.
        flat: The numbers.
    """

    group: int
    parameters: dict[int, torch.Tensor]
    flat: torch.Tensor


def of(optimizer: Foreign, *, keep: bool) -> State:
    """What `state_dict` of torch's optimiser would give. All processes must call this after a step.

    Args:
        optimizer: DeepSpeed's.
        keep: Whether this process wants it; the others have but to hand over their parts.
    """
    pieces = _pieces(optimizer)
    states: dict[int, State] = {}
    for piece in pieces:
        own = optimizer.optimizer.state[piece.flat]
        for number, parameter in piece.parameters.items():
            whole = dict(_whole(optimizer, parameter, own))
            states |= {number: whole} if keep else {}
    groups = [
        {
            **_settings(group),
            "params": [n for p in pieces if p.group == index for n in p.parameters],
        }
        for index, group in enumerate(optimizer.optimizer.param_groups)
    ]
    return {"state": states, "param_groups": groups}


def restore(optimizer: Foreign, state: State) -> None:
    """Go on from what `of` or torch's `state_dict` gave. The weights must be restored before.

    Args:
        optimizer: DeepSpeed's.
        state: Of whole tensors.
    """
    optimizer.refresh_fp32_params()
    for piece in _pieces(optimizer):
        own: State = {}
        for number, parameter in piece.parameters.items():
            for name, value in state["state"][number].items():
                if _is_scalar(value):
                    own[name] = value
                else:
                    own.setdefault(name, torch.zeros_like(piece.flat))
                    _put(optimizer, parameter, own[name], value)
        optimizer.optimizer.state[piece.flat] = own
    saved = [group for group in state["param_groups"] if group["params"]]
    for group, settings in zip(optimizer.optimizer.param_groups, saved, strict=True):
        group.update(_settings(settings))


def _settings(group: State) -> State:
    return {name: value for name, value in group.items() if name not in _OTHERS}


def _pieces(optimizer: Foreign) -> list[_Piece]:
    return list(_numbered(_divided(optimizer)))


def _numbered(
    found: Iterator[tuple[int, list[torch.Tensor], torch.Tensor]],
) -> Iterator[_Piece]:
    # The groups come in the order in which torch numbers their parameters.
    numbers = count()
    for group, parameters, flat in found:
        yield _Piece(group, {next(numbers): each for each in parameters}, flat)


def _divided(optimizer: Foreign) -> Iterator[tuple[int, list[torch.Tensor], torch.Tensor]]:
    """Number of the group, parameters, and what of them this process holds in one tensor."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        parts = zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True)
        for number, (parameters, flat) in enumerate(parts):
            yield optimizer.sub_group_to_group_id[number], parameters, flat
        return
    parts = zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True)
    for number, (parameters, flat) in enumerate(parts):
        yield number, parameters, flat


def _whole(optimizer: Foreign, parameter: torch.Tensor, own: State) -> Iterator[tuple[str, Any]]:
    for name, value in own.items():
        if _is_scalar(value):
            # Stored once for each parameter, as torch has it.
            yield name, deepcopy(value)
        else:
            yield name, _gathered(optimizer, parameter, value).cpu()


def _is_scalar(value: object) -> bool:
    return not isinstance(value, torch.Tensor) or value.dim() == 0


def _gathered(optimizer: Foreign, parameter: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """The whole of what belongs to a parameter, from the pieces of all processes.

    DeepSpeed has a function for it, which finds nothing in any group but the first.
    """
    size, place = shape(parameter), _place(optimizer, parameter)
    whole = held.new_zeros(_filled(parameter), device=parameter.device)
    if place:
        part = held.narrow(0, place.in_piece, place.size)
        whole.narrow(0, place.in_parameter, place.size).copy_(part)
    dist.all_reduce(whole)
    return whole[: size.numel()].view(size)


def _put(
    optimizer: Foreign, parameter: torch.Tensor, into: torch.Tensor, value: torch.Tensor
) -> None:
    """Write this process's part of what belongs to a parameter to where it lies in a piece."""
    if place := _place(optimizer, parameter):
        # DeepSpeed's own setter takes no tensor whose parts are filled up to equal sizes.
        filled = pad(value.flatten(), (0, _filled(parameter) - value.numel()))
        part = filled.narrow(0, place.in_parameter, place.size)
        into.narrow(0, place.in_piece, place.size).copy_(part)


@dataclass(frozen=True)
class _Place:
    """Where this process has its part of a parameter: first numbers, and how many."""

    in_piece: int
    in_parameter: int
    size: int


def _place(optimizer: Foreign, parameter: Foreign) -> _Place | None:
    if zero.is_spread(parameter):
        _, start, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        return _Place(start, size * dist.get_rank(), size)
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    mine, its = mapping.hp_fragment_address, mapping.lp_fragment_address
    return _Place(mine.start, its.start, its.numel)


def _filled(parameter: Foreign) -> int:
    """How many numbers all parts have together: of ZeRO-3 all are of one size."""
    if zero.is_spread(parameter):
        return int(parameter.ds_tensor.ds_numel) * dist.get_world_size()
    return int(parameter.numel())
