"""Held-out figures of the online methods: what the policy answers to prompts that it never trains on.

Called by their recipes before, during and after training. Answers are greedy, so that the figures
follow from the weights alone. The divergence is exact: summed over the whole vocabulary at every token
of the answer, not estimated from the tokens that were drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune_trainer.answering import Sampling, write_answers
from finetune_trainer.data.rows import PromptRow
from finetune_trainer.foreign import Model
from finetune_trainer.reference import answer_logits
from finetune_trainer.rollout import Rollout
from finetune_trainer.watch import Measures

OtherLogits = Callable[[Rollout, torch.dtype], Tensor]


@dataclass(frozen=True)
class HeldOut:
    """The prompts that are measured on, and how.

    Attributes:
        rows: Held-out prompts.
        how: Longest answer, stop tokens.
        micro_batch: Rows of a forward pass.
        precision: Arithmetic of the forward pass.
    """

    rows: Sequence[PromptRow]
    how: Sampling
    micro_batch: int
    precision: torch.dtype

    def answers(self, model: Model) -> Rollout:
        """Greedy answers to all prompts."""
        return write_answers(model, [row.prompt_ids for row in self.rows], self.how)

    def lengths(self, rollout: Rollout) -> Measures:
        """Mean length in tokens, and the share that ended by itself."""
        return {
            "responseLength": float(rollout.mask.sum(1).float().mean()),
            "eosShare": float(rollout.ended.float().mean()),
        }

    @torch.no_grad()
    def divergence(self, model: Model, rollout: Rollout, other: OtherLogits) -> float:
        """KL(policy, other) of an answer in nats: the sum over its tokens, a mean over answers."""
        training = model.training
        model.eval()
        sums = [
            (_divergences(model, part, other, self.precision) * part.mask).sum(1)
            for part in self._parts(rollout)
        ]
        model.train(training)
        return float(torch.cat(sums).mean())

    def _parts(self, rollout: Rollout) -> Iterator[Rollout]:
        for first in range(0, len(self.rows), self.micro_batch):
            yield rollout.rows(slice(first, first + self.micro_batch))


def _divergences(
    model: Model, rollout: Rollout, other: OtherLogits, precision: torch.dtype
) -> Tensor:
    mine = answer_logits(model, rollout, precision).log_softmax(2)
    theirs = other(rollout, precision).log_softmax(2)
    return (mine.exp() * (mine - theirs)).sum(2)
