"""Whole tensors of a checkpoint, spread over processes again.

Used by `weights` and `trainer`. A checkpoint holds whole tensors, which `sharded` puts together, so that a
run can go on with another number of processes. All processes must do the same with the same tensors in
the same order.
"""

from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def spread_as(tensor: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    """A whole tensor, or this process's part of it if the template is spread."""
    if not isinstance(template, DTensor):
        return tensor
    return distribute_tensor(tensor, template.device_mesh, template.placements)


def spread_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimiser, spread as the parameters that it belongs to.

    Args:
        state: As `optimizer.state_dict` gave it, of whole tensors.
        optimizer: That is to go on from it.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    spread = {
        number: {
            name: spread_as(value, parameters[number])
            if isinstance(value, torch.Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in of_parameter.items()
        }
        for number, of_parameter in state["state"].items()
    }
    return {**state, "state": spread}
