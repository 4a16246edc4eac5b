"""The reference of GRPO and RLOO, asked in the pass that asks the policy anyway.

Mixed into their trainers. TRL asks in a pass of its own as soon as answers are written. GRPO needs what the
reference says in the loss alone, where the policy is asked with gradients; RLOO takes the penalty off the
rewards, for which it asks both without. What one pass is, and when there is none, is up to `answer_head`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from finetune_trainer.fast import answer_head
from finetune_trainer.fast.told import Fitted
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.reference import Reference

_NOBODY_ASKS = "nothing is compared with a reference"


class Asking:
    """A model that is asked about its reference with each call.

    Args:
        model: With the head of `answer_head`.
        kept: Gets what the reference says, of shape (rows, tokens - 1).
    """

    def __init__(self, model: Model, kept: Callable[[Tensor], None]) -> None:
        self._model, self._kept = model, kept

    def __call__(self, **inputs: Foreign) -> Foreign:
        """The model's outputs."""
        outputs = self._model(**inputs, reference=True)
        self._kept(outputs.reference)
        return outputs


class InOnePass:
    """What both have in common.

    Attributes:
        against_one_pass: Why policy and reference are not asked together; None if they are.
    """

    against_one_pass: str | None = _NOBODY_ASKS


class AskedInTheLoss(InOnePass):
    """GRPO's; stands before TRL's trainer among the bases."""

    beta: float

    def _generate_and_score_completions(self, *arguments: Foreign) -> Foreign:
        """Answers with their rewards; without a penalty, nobody asks the reference here."""
        beta = self.beta
        self.beta = 0.0 if self.against_one_pass is None else beta
        try:
            return super()._generate_and_score_completions(*arguments)  # type: ignore[misc]
        finally:
            self.beta = beta

    def _compute_loss(self, model: Model, inputs: dict[str, Any]) -> Foreign:
        if self.against_one_pass is not None:
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        known, width = dict(inputs), inputs["completion_ids"].shape[1]

        def keep(logs: Tensor) -> None:
            known["ref_per_token_logps"] = logs[:, -width:]

        return super()._compute_loss(Asking(model, keep), known)  # type: ignore[misc]


class AskedBesideRewards(InOnePass):
    """RLOO's; stands before TRL's trainer among the bases."""

    _known: tuple[Tensor, list[Tensor]] | None = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Model,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *rest: Foreign,
        **named: Foreign,
    ) -> Foreign:
        """TRL asks about the same rows twice: first the policy, then with its adapter off."""
        ask = super()._get_per_token_logps_and_entropies  # type: ignore[misc]
        given = (input_ids, attention_mask, logits_to_keep, *rest)
        if torch.is_grad_enabled() or self.against_one_pass is not None:
            return ask(model, *given, **named)
        known, self._known = self._known, None
        if known is not None and known[0] is input_ids:
            return torch.cat(known[1])[:, -logits_to_keep:], None, None
        self._known = input_ids, []
        return ask(Asking(model, self._known[1].append), *given, **named)


def against_one_pass(
    model: Model, reference: Reference, fitted: Fitted, repeats: int
) -> str | None:
    """Why the reference is asked in passes of its own; None if in those of the policy.

    Args:
        model: The policy.
        reference: Its reference.
        fitted: The fast paths of the policy.
        repeats: How often each answer is learned from.
    """
    if reference.copy is not None:
        return "the reference is a frozen copy"
    if repeats > 1:
        return f"each answer is learned from {repeats} times, and the reference asked once"
    return answer_head.against_one_pass(model, fitted)
