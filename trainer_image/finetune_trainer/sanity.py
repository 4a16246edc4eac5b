"""Proof that training trains: a first loss that is known, gradients everywhere, movement, a save.

Called by `watch` at the first step and by `recipes.course` after the last. Movement is told by two
sums over each tensor, so that no copy is kept.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict
from safetensors.torch import load_file

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import processes
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.sharded import divide_again, unwrapped, whole, whole_state

STARTS_ELSEWHERE = "starts_elsewhere"
"""Attribute of a model whose adapter changes it from the start, though adapters of its kind do not."""
GRADIENT_SEEN = "gradient_seen"
"""Attribute of a parameter that a gradient has reached, where none is kept."""
# Their last factor is zero at first, or one.
_AT_BASE = (PeftType.LORA, PeftType.ADALORA, PeftType.IA3)

Fingerprints = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class KnownAnswer:
    """What the loss of the first step must be, because nothing has been learnt yet.

    Attributes:
        loss: The value, in nats.
        tolerance: Largest deviation.
        why: Where the value comes from.
    """

    loss: float
    tolerance: float
    why: str

    def check(self, loss: float) -> None:
        """See that it is met.

        Raises:
            TrainerError: SanityCheckFailed with both values.
        """
        if abs(loss - self.loss) <= self.tolerance:
            return
        raise _failed(
            f"the loss of the first step is {loss:.4f}, but must be {self.loss:.4f} "
            f"± {self.tolerance:.2g}: {self.why}",
            [],
        )


@contextmanager
def as_before_training(model: Model) -> Iterator[None]:
    """The model in evaluation mode, without its adapter if it has one."""
    with _evaluating(model), without_adapter(model):
        yield


@contextmanager
def without_adapter(model: Model) -> Iterator[None]:
    """The model with its adapter switched off, if it has one."""
    if not isinstance(model, PeftModel):
        yield
        return
    # PEFT says of parameters whether they want gradients, which FSDP hears only of its own parts.
    divide_again(model)
    with model.disable_adapter():
        yield
        divide_again(model)


@contextmanager
def before_first_step(model: Model) -> Iterator[None]:
    """The model in evaluation mode, while it is still untrained, so that it may say what it said.

    Without its adapter, whose start is then proved to change nothing, if it is of a kind that starts
    so. Virtual tokens and some other kinds change the model from the start.
    """
    plain = unwrapped(model)
    with _evaluating(model), without_adapter(plain) if _starts_at_base(plain) else nullcontext():
        yield


def fingerprints(model: Model) -> Fingerprints:
    """Two sums over each trainable tensor; one changed element changes them."""
    return {
        name: _sums(whole(parameter))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def require_gradients(model: Model) -> None:
    """See that the backward pass reached every trainable tensor.

    Raises:
        TrainerError: SanityCheckFailed naming those without a gradient.
    """
    trainable = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    without = [name for name, each in trainable if not _reached(each)]
    if without or not trainable:
        what = f"{len(without)} of {len(trainable)} trainable tensors got no gradient"
        raise _failed(what, without)


def require_movement(model: Model, before: Fingerprints, steps: int) -> None:
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
        if _has_other_adapter(model) and len(still) < len(now):
            # So it is with other kinds, whose factors have other names.
            still = []
    # The singular values of a matrix that AdaLoRA pruned to rank 0 are back where they began.
    still = [name for name in still if ".lora_E." not in name or any(now[name])]
    if still:
        raise _failed(f"{len(still)} trainable tensors did not move in {steps} steps", still)


def require_reload(model: Model, folder: Path) -> None:
    """Save as at the end, read back, compare: what cannot be saved is told after one step.

    Args:
        model: The model in training.
        folder: Where to write; removed afterwards.

    Raises:
        TrainerError: SanityCheckFailed naming tensors that were lost or changed on the way.
    """
    try:
        lost = _lost_in_saving(model, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if lost:
        raise _failed(f"{len(lost)} tensors do not survive being saved after step 1", lost)


def _lost_in_saving(model: Model, folder: Path) -> list[str]:
    state = whole_state(model)
    if not processes.is_main():
        return []
    if isinstance(model, PeftModel):
        model.save_pretrained(folder, save_embedding_layers=False, state_dict=state)
        expected = get_peft_model_state_dict(model, state, save_embedding_layers=False)
    else:
        model.save_pretrained(folder, state_dict=state)
        expected = {
            name: state[name] if state else each
            for name, each in model.named_parameters()
            if each.requires_grad
        }
    stored: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        stored |= load_file(path)
    known = {_digest(tensor) for tensor in stored.values()}
    if not expected:
        return ["nothing to save"]
    # Tied weights are stored once, under one of their names, so tensors are told by content.
    return [name for name, tensor in expected.items() if _digest(tensor) not in known]


def _reached(parameter: torch.Tensor) -> bool:
    return parameter.grad is not None or getattr(parameter, GRADIENT_SEEN, False)


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _starts_at_base(model: Model) -> bool:
    elsewhere = getattr(model, STARTS_ELSEWHERE, False)
    return isinstance(model, PeftModel) and not elsewhere and not _has_other_adapter(model)


def _has_other_adapter(model: Model) -> bool:
    return isinstance(model, PeftModel) and model.peft_config["default"].peft_type not in _AT_BASE


def _digest(tensor: torch.Tensor) -> tuple[tuple[int, ...], str, str]:
    held = tensor.detach().cpu()
    one, two = _sums(held)
    # As text, because a tensor of NaN equals itself there; that it is NaN is for others to tell.
    return tuple(held.shape), str(one), str(two)


def _sums(held: torch.Tensor) -> tuple[float, float]:
    return float(held.sum(dtype=torch.float64)), float(held.square().sum(dtype=torch.float64))


def _failed(what: str, names: list[str]) -> TrainerError:
    listed = f": {', '.join(names[:3])}" if names else ""
    return TrainerError(Reason.SANITY_CHECK_FAILED, what + listed)
