"""The policy that a trained one is compared with, and the logits of both on written answers.

Used by PPO, by the group methods and by the held-out evaluation of all online methods. An adapter that
starts at nothing leaves the base model as its own reference; where that is not so, a frozen copy of the
policy as it starts is kept.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.v1alpha1.status import Resolved
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.rollout import Rollout

_SWITCHED_OFF = ("LoRA", "QLoRA", "AdaLoRA", "IA3")
# These start where the base is by a sum or a quotient, and so only up to rounding.
_ROUNDED = ("DoRA", "PiSSA", "OLoRA")
ROUNDING = 0.05


def copies(tuning: Tuning) -> bool:
    """Whether the reference of this tuning is a frozen copy, and not the policy without its adapter."""
    starts_elsewhere = tuning.lora is not None and tuning.lora.variant == "LoftQ"
    return tuning.type not in _SWITCHED_OFF or starts_elsewhere


def start_tolerance(tuning: Tuning) -> float:
    """How far policy and reference may differ at the start, in nats a token."""
    rounded = tuning.lora is not None and tuning.lora.variant in _ROUNDED
    return ROUNDING if rounded else 0.0


def told(tuning: Tuning, field: str) -> Resolved:
    """What the reference is, for the status."""
    if copies(tuning):
        why = f"{tuning.type} changes the model from the start, or all of it: this costs its memory"
        return Resolved(field=field, value="a frozen copy", why=why)
    why = "the adapter starts at nothing, so the base model is the reference and costs no memory"
    return Resolved(field=field, value="the policy without its adapter", why=why)


@dataclass(frozen=True)
class Reference:
    """The reference of one policy.

    Attributes:
        policy: The model in training.
        copy: The frozen copy, or None where the adapter is switched off.
    """

    policy: Model
    copy: Model | None

    @classmethod
    def of(cls, policy: Model, tuning: Tuning, before: Model | None = None) -> "Reference":
        """The reference of a policy that is not trained yet, or of a trained one with what it was."""
        if before is not None:
            return cls(policy, before)
        return cls(policy, frozen_copy(policy) if copies(tuning) else None)

    @torch.no_grad()
    def logits(self, rollout: Rollout, precision: torch.dtype) -> Tensor:
        """As `answer_logits`, of the reference."""
        with self.model() as net:
            return answer_logits(net, rollout, precision)

    @contextmanager
    def model(self) -> Iterator[Model]:
        """The model that is the reference, as long as it lasts."""
        if self.copy is not None:
            yield self.copy
            return
        with self.policy.disable_adapter():
            yield self.policy


def answer_logits(model: Model, rollout: Rollout, precision: torch.dtype) -> Tensor:
    """Logits in float32 that predict each answer token: (rows, answer tokens, vocabulary)."""
    mask = torch.cat([rollout.prompt_mask, rollout.mask], dim=1)
    width = rollout.answers.shape[1]
    inputs: dict[str, Any] = {
        "input_ids": torch.cat([rollout.prompts, rollout.answers], dim=1),
        "attention_mask": mask.long(),
        "position_ids": positions(mask),
        # The logit before each answer token, and the one after the last.
        "logits_to_keep": width + 1,
    }
    with autocast_to(rollout.answers.device.type, precision):
        logits: Tensor = model(**_accepted(model, inputs), use_cache=False).logits
    return logits[:, -1 - width : -1].float()


def positions(mask: Tensor) -> Tensor:
    """Positions of tokens in padded rows: the first real token of a row is at 0."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def frozen_copy(model: Model) -> Model:
    """The model as it is now, never to change."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def silence_dropout(model: Model) -> None:
    """Make the forward pass a function: a ratio of probabilities needs the same ones twice."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _accepted(model: Model, inputs: dict[str, Any]) -> dict[str, Any]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(type(inner).forward).parameters
    return {name: value for name, value in inputs.items() if name in known}


@contextmanager
def autocast_to(device: str, precision: torch.dtype) -> Iterator[None]:
    """Arithmetic in a precision, float32 as it is."""
    lower = precision is not torch.float32
    context: Foreign = torch.autocast(device, dtype=precision) if lower else nullcontext()
    with context:
        yield
