"""The model that a policy is compared with: itself before training, or another one.

Used by the trainers of DPO and KTO, which take their log-probabilities from here and not from TRL: it
would copy the adapter, which costs memory and, for adapters that start from the weights of the base,
changes these a second time.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from trl.trainer.utils import add_fused_lm_head

from finetune_api.v1alpha1.method import Reference as Block
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import heads, opening, zero
from finetune_trainer.batches import Batch
from finetune_trainer.errors import TrainerError
from finetune_trainer.fast import answer_head
from finetune_trainer.fast.told import Fitted
from finetune_trainer.foreign import Foreign, Model, ModelConfig
from finetune_trainer.preference.pairs import ROUNDING, forward
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.resolve import Settings
from finetune_trainer.sanity import as_before_training


class NoReferenceModel(nn.Module):
    """Given to TRL where it asks for a reference, so that it makes none of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # DeepSpeed asks a model for the dtype of its first parameter.
        self.nothing = nn.Parameter(torch.zeros(1), requires_grad=False)


@dataclass(frozen=True)
class Reference:
    """Gives the log-probabilities of the reference.

    Attributes:
        policy: The model in training.
        other: A frozen model that is the reference instead; None for the policy before training.
        settings: Of the run.
        fitted: The fast paths of the frozen model.
    """

    policy: Model
    other: Model | None
    settings: Settings
    fitted: Fitted | None = None

    def before_training(self, batch: Batch) -> torch.Tensor:
        """Sums over the answers, of shape (sequences,), while the policy is still untrained.

        The policy stands as it will start, with its adapter: right for every tuning.
        """
        return self._sums(self.other if self.other is not None else self.policy, batch)

    def in_training(self, batch: Batch) -> torch.Tensor:
        """The same at any time; without another model, the adapter is switched off for it."""
        if self.other is not None:
            return self._sums(self.other, batch)
        with as_before_training(self.policy):
            return self._sums(self.policy, batch)

    def against_one_pass(self, fitted: Fitted) -> str | None:
        """Why `together` takes two passes; None if it takes one.

        Args:
            fitted: The fast paths of the policy.
        """
        if self.other is not None:
            return "the reference is another model"
        return answer_head.against_one_pass(self.policy, fitted)

    def together(self, model: Model, batch: Batch) -> tuple[Foreign, torch.Tensor]:
        """The outputs of the policy, and `in_training`, in one pass.

        Args:
            model: The policy as it is called in training, for which `against_one_pass` knows nothing.
            batch: Ids with masks, of shape (sequences, tokens).
        """
        outputs = forward(model, batch, self.settings, reference=True)
        return outputs, outputs.reference.float().sum(1)

    def require_switch(self, batch: Batch) -> None:
        """See that the policy without its adapter is the policy before training.

        Raises:
            TrainerError: InvalidSpec if the adapter does not start at nothing.
        """
        if self.other is not None:
            return
        difference = float((self.before_training(batch) - self.in_training(batch)).abs().max())
        scale = 1.0 if self.settings.precision == "Float32" else 1e3
        if difference > ROUNDING * scale:
            message = (
                "`reference.precompute: false` switches the adapter off, but this one does not start "
                f"at the base model: an answer's log-probability differs by {difference:.3g}"
            )
            raise TrainerError(Reason.INVALID_SPEC, message, "Leave `reference.precompute` on.")

    @torch.no_grad()
    def _sums(self, net: Model, batch: Batch) -> torch.Tensor:
        training = net.training
        net.eval()
        # The other model is whole, also where the policy is divided.
        with zero.undivided() if net is self.other else nullcontext():
            sums: torch.Tensor = forward(net, batch, self.settings).log_probs.float().sum(1)
        net.train(training)
        return sums


def open_reference(ready: Ready, field: str, block: Block, policy: Model) -> Reference:
    """The reference of a run.

    Args:
        ready: The run.
        field: Path of the block below `spec`.
        block: The block.
        policy: The model before training, or with `ready.before` the trained one.

    Raises:
        TrainerError: UnsupportedModel if the other model has other tokens, or is no language model.
    """
    context, settings = ready.context, ready.settings
    if ready.before is not None and not block.source:
        return Reference(policy, ready.before, settings)
    source = context.models[f"{field}.source"] if block.source else context.base
    if not block.source and (block.precompute or ready.spec.tuning.type != "Full"):
        return Reference(policy, None, settings)
    place = (settings.precision, settings.device)
    other, tokenizer = opening.load_source(source, heads.CAUSAL, *place)
    if block.source and tokenizer.get_vocab() != ready.tokenizer.get_vocab():
        message = f"{source.uri}: its tokens are not those of the model that is trained"
        hint = "Take a reference with the same tokenizer."
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message, hint)
    add_fused_lm_head(other)
    return Reference(policy, other, settings, answer_head.install(other, settings.max_length))


def told(field: str, block: Block, tuning: Tuning) -> Resolved:
    """What the reference is, for the status."""
    once = "its log-probabilities are computed once, before training, and it is not kept in memory"
    if block.source:
        why = once if block.precompute else "it is kept in memory, as `precompute` is off"
        return Resolved(field=field, value=block.source, why=why)
    if block.precompute:
        return Resolved(field=field, value="the model before training", why=once)
    if tuning.type == "Full":
        why = "it is kept in memory, as `precompute` is off"
        return Resolved(field=field, value="a frozen copy of the model", why=why)
    why = "asked in each step, as `precompute` is off"
    return Resolved(field=field, value="the model without its adapter", why=why)
