"""The formulas of PPO as pure functions of tensors, and the controller of the penalty.

    Schulman et al. 2017, Proximal Policy Optimization Algorithms, arXiv 1707.06347
    Schulman et al. 2015, Generalized Advantage Estimation, arXiv 1506.02438
    Ziegler et al. 2019, Fine-Tuning Language Models from Human Preferences, arXiv 1909.08593

Called by `ppo.algorithm`. All tensors of answers have the shape (rows, tokens), padded on the right; `mask`
is true at the tokens that were written, the stop token included. Sums run over true tokens only.
"""

import torch
from torch import Tensor

# Ziegler et al., section 2.2: how fast the penalty follows, and the largest error that is believed.
_KL_GAIN = 0.1
_KL_LARGEST_ERROR = 0.2
_SMALL = 1e-8


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the true places of the mask."""
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor, *, shift: bool) -> Tensor:
    """Values spread to a standard deviation of 1 around 0 or, without `shift`, around their mean.

    Rewards keep their mean, because it means something. Values that are all alike stay so. What is
    not in the mask becomes 0.
    """
    mean = masked_mean(values, mask)
    deviation = masked_mean((values - mean).square(), mask).add(_SMALL).sqrt()
    whitened = (values - mean) / deviation
    return (whitened if shift else whitened + mean) * mask


def token_rewards(
    scores: Tensor, log_ratios: Tensor, mask: Tensor, kl_coefficient: float
) -> Tensor:
    """What each token earns: `-beta log(pi / pi_ref)`, and the last one the score besides.

    Ziegler et al., equation 2, by tokens.

    Args:
        scores: One a row, shape (rows,).
        log_ratios: `log pi(token) - log pi_ref(token)` of the policy that wrote the answers.
        mask: True at written tokens, at least one a row.
        kl_coefficient: beta.
    """
    rewards = -kl_coefficient * log_ratios * mask
    last = mask.sum(1, keepdim=True).long() - 1
    return rewards.scatter_add(1, last, scores.unsqueeze(1).to(rewards))


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, trace: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, equation 16), and the value targets.

    `delta_t = r_t + gamma V_{t+1} - V_t`; `A_t = delta_t + gamma lambda A_{t+1}`; the target of `V_t`
    is `A_t + V_t`. After the last written token the episode is over: no value, no advantage.

    Args:
        rewards: By token.
        values: V of the state before each token.
        mask: True at written tokens.
        gamma: Discount.
        trace: lambda; 1 is the plain return without the value, 0 trusts the value alone.
    """
    values = values * mask
    following, advantage = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    backwards = []
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        advantage = (delta + gamma * trace * advantage) * mask[:, t]
        following = values[:, t]
        backwards.append(advantage)
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, (advantages + values) * mask


def policy_losses(ratios: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """The clipped surrogate by token (arXiv 1707.06347, equation 7), as a loss.

    `-min(r A, clip(r, 1 - eps, 1 + eps) A)`: no gain from leaving the range, full loss for it.
    """
    clipped = ratios.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratios * advantages, clipped * advantages)


def value_losses(values: Tensor, old: Tensor, targets: Tensor, clip_range: float) -> Tensor:
    """Half the squared error by token, of the value or of the clipped one, whichever is worse.

    The same idea for the value function: an update gains nothing by moving a value further than
    `clip_range` from where it was when the answers were written.
    """
    clipped = torch.clamp(values, old - clip_range, old + clip_range)
    return 0.5 * torch.maximum((values - targets).square(), (clipped - targets).square())


def explained_variance(values: Tensor, targets: Tensor, mask: Tensor) -> float:
    """`1 - Var(target - value) / Var(target)`: 1 is perfect, 0 as good as a constant, below worse."""
    error, target = (targets - values)[mask], targets[mask]
    spread = target.var(unbiased=False)
    return float(1 - error.var(unbiased=False) / spread) if spread > _SMALL else 0.0


class KLController:
    """beta, the price of the divergence from the reference: fixed, or led to a target.

    Ziegler et al., section 2.2: `e = clip(KL / target - 1, -0.2, 0.2)`; `beta <- beta (1 + 0.1 e)`.

    Attributes:
        coefficient: beta.
    """

    def __init__(self, coefficient: float, target: float | None) -> None:
        self.coefficient = coefficient
        self._target = target

    def update(self, kl: float) -> None:
        """Follow the divergence of a batch: nats an answer."""
        if self._target is None:
            return
        error = kl / self._target - 1
        bounded = min(max(error, -_KL_LARGEST_ERROR), _KL_LARGEST_ERROR)
        self.coefficient *= 1 + _KL_GAIN * bounded
