"""What a language model says of written answers: by its logits, or without them where that fits.

Used by `ppo.policy`. Logits of all answers at once are the largest thing in a step of PPO, and padding is
read like text. Where `fast.answer_head` fits, and the output layer is not trained, both are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from finetune_trainer.data.rows import IGNORED
from finetune_trainer.fast import answer_head
from finetune_trainer.fast.told import Fitted
from finetune_trainer.foreign import Model
from finetune_trainer.reference import Reference, answer_logits, autocast_to
from finetune_trainer.rollout import Rollout

_ANY = 2**31


@dataclass(frozen=True)
class Read:
    """What was read off a model; 0 where nothing was written.

    Attributes:
        log_probabilities: Of the written tokens, shape (rows, tokens).
        entropies: Of the distributions that they were drawn from, without gradient.
        hidden: The states that predict them, shape (rows, tokens, hidden size), without gradient.
    """

    log_probabilities: Tensor
    entropies: Tensor
    hidden: Tensor


Reader = Callable[[Model, Rollout], Read]


@dataclass(frozen=True)
class Way:
    """How a policy and its reference are read.

    Attributes:
        read: Reads either of them.
        fitted: The fast paths, or what is against them.
    """

    read: Reader
    fitted: Fitted


def way(reference: Reference, temperature: float, precision: torch.dtype) -> Way:
    """The way that fits a policy and its reference, which must be read alike.

    Args:
        reference: With the policy; both are prepared for it.
        temperature: Of the distributions.
        precision: Arithmetic of the forward pass.
    """
    nets = [net for net in (reference.policy, reference.copy) if net is not None]
    by_logits = partial(_by_logits, temperature=temperature, precision=precision)
    if not all(map(answer_head.head_is_frozen, nets)):
        return Way(by_logits, Fitted("the output layer is trained"))
    # How long answers will be is not known yet.
    longest = getattr(reference.policy.config, "max_position_embeddings", _ANY)
    for net in nets:
        fitted = answer_head.install(net, longest, temperature, entropies=True)
        if not fitted.packed:
            return Way(by_logits, Fitted(fitted.against_head or fitted.against_packing))
    return Way(partial(_without_logits, precision=precision), Fitted())


def _without_logits(model: Model, rollout: Rollout, *, precision: torch.dtype) -> Read:
    ids = torch.cat([rollout.prompts, rollout.answers], dim=1)
    written = torch.cat([torch.zeros_like(rollout.prompt_mask), rollout.mask], dim=1)
    with autocast_to(ids.device.type, precision):
        found = model(
            input_ids=ids,
            attention_mask=torch.cat([rollout.prompt_mask, rollout.mask], dim=1).long(),
            labels=ids.masked_fill(~written, IGNORED),
            fused_lm_head=True,
            states=True,
        )
    states = found.states.detach()
    hidden = states.new_zeros(*rollout.mask.shape, states.shape[1])
    width = rollout.answers.shape[1]
    return Read(
        found.log_probs[:, -width:],
        found.entropy[:, -width:],
        hidden.masked_scatter(rollout.mask.unsqueeze(2), states),
    )


def _by_logits(
    model: Model, rollout: Rollout, *, temperature: float, precision: torch.dtype
) -> Read:
    found: list[Tensor] = []
    output = model.get_output_embeddings()
    hook = output.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        logits = answer_logits(model, rollout, precision) / temperature
    finally:
        hook.remove()
    return Read(
        _log_probabilities(logits, rollout),
        _entropies(logits.detach()).masked_fill(~rollout.mask, 0),
        found.pop()[:, -1 - logits.shape[1] : -1].detach(),
    )


def _log_probabilities(logits: Tensor, rollout: Rollout) -> Tensor:
    chosen = logits.gather(2, rollout.answers.unsqueeze(2)).squeeze(2)
    return (chosen - logits.logsumexp(2)).masked_fill(~rollout.mask, 0)


@torch.no_grad()
def _entropies(logits: Tensor) -> Tensor:
    probabilities = logits.softmax(2)
    return logits.logsumexp(2) - (probabilities * logits).sum(2)
