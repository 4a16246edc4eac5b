"""Proof that training trained: gradients reach every trainable tensor, and every one has moved.

Called by the recipe's callback and by the recipe. It compares two sums over each tensor and keeps no
copy.
"""

import math

import torch

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import CausalLM

Fingerprints = dict[str, tuple[float, float]]


def fingerprints(model: CausalLM) -> Fingerprints:
    """Two sums over each trainable tensor; one changed element changes them."""
    return {
        name: (_sum(parameter), _sum(parameter.detach().square()))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def require_gradients(model: CausalLM) -> None:
    """See that the backward pass reached every trainable tensor.

    Raises:
        TrainerError: SanityCheckFailed naming those without a gradient.
    """
    trainable = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    without = [name for name, parameter in trainable if parameter.grad is None]
    if without or not trainable:
        what = f"{len(without)} of {len(trainable)} trainable tensors got no gradient"
        raise _failed(what, without)


def require_movement(model: CausalLM, before: Fingerprints, steps: int) -> None:
    """See that training changed every trainable tensor.

    Args:
        model: The trained model.
        before: Fingerprints from before the first step.
        steps: Optimiser steps that were done.

    Raises:
        TrainerError: SanityCheckFailed naming those that stand still; Diverged if one holds NaN.
    """
    if steps < 1:
        raise _failed("not one step was done", [])
    now = fingerprints(model)
    if not all(math.isfinite(each) for sums in now.values() for each in sums):
        raise TrainerError(
            Reason.DIVERGED, f"the trained weights are not numbers after step {steps}"
        )
    still = [name for name, after in now.items() if after == before.get(name)]
    # B starts at zero, and only once it has moved does any gradient reach A.
    if steps <= 2:
        still = [name for name in still if ".lora_A." not in name]
    if still:
        raise _failed(f"{len(still)} trainable tensors did not move in {steps} steps", still)


def _sum(tensor: torch.Tensor) -> float:
    return float(tensor.detach().sum(dtype=torch.float64))


def _failed(what: str, names: list[str]) -> TrainerError:
    listed = f": {', '.join(names[:3])}" if names else ""
    return TrainerError(Reason.SANITY_CHECK_FAILED, what + listed)
