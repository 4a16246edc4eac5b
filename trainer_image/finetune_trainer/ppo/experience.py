"""What `ppo.algorithm` works with: settings, the model as it needs it, and what a batch has to teach.

`policy.LanguagePolicy` is the model. Nothing is computed here.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from finetune_trainer.rollout import Rollout


@dataclass(frozen=True)
class Hyperparameters:
    """Settings of the method; names and defaults as in the block `ppo` of the API."""

    kl_coefficient: float = 0.05
    kl_target: float | None = None
    clip_range: float = 0.2
    value_clip_range: float = 0.2
    gamma: float = 1.0
    gae_lambda: float = 0.95
    epochs: int = 4
    minibatches: int = 1
    whiten_rewards: bool = False
    missing_eos_penalty: float | None = None


@dataclass(frozen=True)
class Judgement:
    """What a policy thinks of written answers, by token; 0 at padding.

    Attributes:
        log_probabilities: Of the tokens that were written.
        entropies: Of the distributions that they were drawn from, in nats.
        values: What the value head expects before each token.
    """

    log_probabilities: Tensor
    entropies: Tensor
    values: Tensor

    def detached(self) -> "Judgement":
        """The same without gradients."""
        found = (self.log_probabilities, self.entropies, self.values)
        return Judgement(*(each.detach() for each in found))


class Policy(Protocol):
    """The model as the algorithm needs it; `policy.LanguagePolicy` is one."""

    def judge(self, rollout: Rollout) -> Judgement:
        """Judge answers; with gradients unless they are switched off."""
        ...

    def reference_log_probabilities(self, rollout: Rollout) -> Tensor:
        """The same tokens by the reference policy, without gradients; 0 at padding."""
        ...

    def accumulating(self, more: bool) -> AbstractContextManager[None]:
        """Around a pass with gradients: whether more follow before the update.

        Gradients are averaged over all processes after the last one.
        """
        ...

    def update(self) -> None:
        """Apply the gradients that were collected, and clear them."""
        ...


@dataclass(frozen=True)
class Pass:
    """One forward pass of the policy.

    Attributes:
        rows: Which rows of the batch it has, by their numbers.
        judged: What it said, with its gradients if they were on.
    """

    rows: Tensor
    judged: Judgement


@dataclass(frozen=True)
class Experience:
    """A scored rollout with everything that stays fixed while it is learned from.

    Attributes:
        old: What the policy that wrote the answers thinks of them.
        first: The first pass of the first update, with its gradients: nothing was updated in between, so
            it need not be computed twice. With several processes there is none.
    """

    rollout: Rollout
    old: Judgement
    advantages: Tensor
    targets: Tensor
    figures: dict[str, float]
    first: Pass | None = None
