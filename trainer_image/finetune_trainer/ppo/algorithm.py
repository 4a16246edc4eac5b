"""Proximal policy optimisation (PPO) of a language model against a score, from formulas to one step.

Read from top to bottom: the formulas as pure functions, then `Algorithm.step`, which uses them. A
prompt with its answer is an episode; a state is the text so far, an action the next token. Only the
last action is scored, by a reward model; every action pays for leaving the reference policy.

    Schulman et al. 2017, Proximal Policy Optimization Algorithms, arXiv 1707.06347
    Schulman et al. 2015, Generalized Advantage Estimation, arXiv 1506.02438
    Ziegler et al. 2019, Fine-Tuning Language Models from Human Preferences, arXiv 1909.08593
    Stiennon et al. 2020, Learning to summarize from human feedback, arXiv 2009.01325

Called by `recipes.ppo`. It knows no tokenizer, no storage and no report. All tensors of answers have
the shape (rows, tokens), padded on the right; `mask` is true at the tokens that were written, the stop
token included. Sums run over true tokens only, and a mean over a batch is one over its tokens, so that
the split into micro-batches and among processes never changes an update.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from finetune_trainer import processes
from finetune_trainer.ppo import shares
from finetune_trainer.rollout import Rollout

# Ziegler et al., section 2.2: how fast the penalty follows, and the largest error that is believed.
_KL_GAIN = 0.1
_KL_LARGEST_ERROR = 0.2
_SMALL = 1e-8


# ---- Formulas -------------------------------------------------------------------------------------


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


# ---- One step -------------------------------------------------------------------------------------


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


@dataclass
class _Sums:
    """Figures of all updates of a step: sums over tokens, and how many tokens there were."""

    tokens: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, tokens: int, **values: Tensor) -> None:
        self.tokens += tokens
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def means(self) -> dict[str, float]:
        tokens, *sums = processes.total(self.tokens, *self.sums.values())
        return {name: value / tokens for name, value in zip(self.sums, sums, strict=True)}


class Algorithm:
    """PPO: `step` learns from one batch of answers.

    Attributes:
        kl: The controller of the penalty.
    """

    def __init__(
        self, policy: Policy, settings: Hyperparameters, *, micro_batch: int, seed: int
    ) -> None:
        self.kl = KLController(settings.kl_coefficient, settings.kl_target)
        self._policy = policy
        self._settings = settings
        self._micro_batch = micro_batch
        self._order = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """What the next step takes from those before it: the penalty, and the order of rows."""
        return {"klCoefficient": self.kl.coefficient, "order": self._order.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.kl.coefficient = state["klCoefficient"]
        self._order.set_state(state["order"])

    def step(
        self,
        rollout: Rollout,
        scores: Tensor,
        check: Callable[[Experience], None] | None = None,
    ) -> dict[str, float]:
        """Learn from a batch of scored answers, which every process holds whole.

        Args:
            rollout: Written by the policy as it is now.
            scores: One a row, shape (rows,).
            check: Called before the first update; raises if something is not as it must be.

        Returns:
            Figures of the step, by camelCase names.
        """
        epochs = [self._minibatches(len(scores)) for _ in range(self._settings.epochs)]
        updates = [rows for minibatches in epochs for rows in minibatches]
        experience = self.experience(rollout, scores, torch.cat(list(epochs[0])))
        if check is not None:
            check(experience)
        sums = _Sums()
        for number, rows in enumerate(updates):
            self._update(experience, rows, sums, None if number else experience.first)
        figures = {**experience.figures, **sums.means(), "klCoefficient": self.kl.coefficient}
        self.kl.update(experience.figures["kl"])
        return figures

    @torch.no_grad()
    def experience(
        self, rollout: Rollout, scores: Tensor, order: Tensor | None = None
    ) -> Experience:
        """Judge the answers by policy and reference, and estimate the advantages.

        Args:
            rollout: Written by the policy as it is now.
            scores: One a row, shape (rows,).
            order: Numbers of all rows as the first updates take them; None keeps no gradients.
        """
        settings, mask = self._settings, rollout.mask
        alone = order is not None and processes.world_size() == 1
        parts = self._parts(len(scores), order if alone else None)
        with torch.set_grad_enabled(alone):
            first = Pass(parts[0], self._policy.judge(rollout.rows(parts[0])))
        judged = [first.judged.detached()]
        judged += [self._policy.judge(rollout.rows(part)) for part in parts[1:]]
        old = _whole(judged, parts)
        references = [
            self._policy.reference_log_probabilities(rollout.rows(each)) for each in parts
        ]
        reference = _placed(references, parts)
        log_ratios = old.log_probabilities - reference
        totals = scores.float()
        if settings.missing_eos_penalty is not None:
            totals = totals - settings.missing_eos_penalty * ~rollout.ended
        rewards = token_rewards(totals, log_ratios, mask, self.kl.coefficient)
        if settings.whiten_rewards:
            rewards = whiten(rewards, mask, shift=False)
        advantages, targets = advantages_and_returns(
            rewards, old.values, mask, settings.gamma, settings.gae_lambda
        )
        figures = _figures(rollout, scores, log_ratios, old, targets)
        advantages = whiten(advantages, mask, shift=True)
        kept = first if alone else None
        return Experience(rollout, old, advantages, targets, figures, kept)

    def _update(
        self, experience: Experience, rows: Tensor, sums: _Sums, first: Pass | None
    ) -> None:
        """One update from some rows, in passes of `micro_batch` rows of this process.

        Args:
            experience: What is learned from.
            rows: Numbers of the rows.
            sums: Takes the figures.
            first: The first of the passes, if it is computed already.
        """
        tokens = int(experience.rollout.mask[rows].sum())
        passes = torch.split(rows[shares.own(len(rows))], self._micro_batch)
        for number, part in enumerate(passes, start=1):
            with self._policy.accumulating(number < len(passes)):
                known = first.judged if first and number == 1 else None
                loss = self._pass(experience, part, sums, known)
                # Gradients are averaged over processes, and each has a part of the tokens.
                (loss * processes.world_size() / tokens).backward()  # type: ignore[no-untyped-call]
        self._policy.update()

    def _pass(
        self, experience: Experience, rows: Tensor, sums: _Sums, known: Judgement | None
    ) -> Tensor:
        """The loss of some rows, summed over their tokens."""
        mask = experience.rollout.mask[rows]
        now = known or self._policy.judge(experience.rollout.rows(rows))
        log_ratios = now.log_probabilities - experience.old.log_probabilities[rows]
        ratios = log_ratios.exp()
        policy_loss = policy_losses(ratios, experience.advantages[rows], self._settings.clip_range)
        value_loss = value_losses(
            now.values,
            experience.old.values[rows],
            experience.targets[rows],
            self._settings.value_clip_range,
        )
        policy_sum, value_sum = (policy_loss * mask).sum(), (value_loss * mask).sum()
        clipped = (ratios - 1).abs() > self._settings.clip_range
        sums.add(
            int(mask.sum()),
            policyLoss=policy_sum,
            valueLoss=value_sum,
            clipFraction=(clipped & mask).sum(),
            # Schulman's estimate of KL(old, new), never below 0: r - 1 - log r.
            approximateKl=((ratios - 1 - log_ratios) * mask).sum(),
        )
        return policy_sum + value_sum

    def _parts(self, rows: int, order: Tensor | None) -> Sequence[Tensor]:
        """Numbers of this process's rows by pass; in an order, the first is that of the first update."""
        if order is None:
            own = shares.own(rows)
            return torch.split(torch.arange(own.start, own.stop), self._micro_batch)
        first = min(self._micro_batch, rows // self._settings.minibatches)
        # Nothing to split is split into one part of nothing.
        rest = torch.split(order[first:], self._micro_batch) if first < rows else ()
        return [order[:first], *rest]

    def _minibatches(self, rows: int) -> Sequence[Tensor]:
        order = torch.randperm(rows, generator=self._order)
        return torch.split(order, rows // self._settings.minibatches)


def _whole(judged: Sequence[Judgement], parts: Sequence[Tensor]) -> Judgement:
    """What the policy says of the rows of all processes, of which these are this one's."""
    return Judgement(
        _placed([each.log_probabilities for each in judged], parts),
        _placed([each.entropies for each in judged], parts),
        _placed([each.values for each in judged], parts),
    )


def _placed(found: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Values of passes in the order of their rows, and those of all processes."""
    values, rows = torch.cat(list(found)), torch.cat(list(parts))
    return shares.together(values[rows.argsort().to(values.device)])


def _figures(
    rollout: Rollout, scores: Tensor, log_ratios: Tensor, old: Judgement, targets: Tensor
) -> dict[str, float]:
    return {
        "reward": float(scores.float().mean()),
        # Nats an answer, by the answers that the policy wrote itself.
        "kl": float(log_ratios.sum(1).mean()),
        "entropy": float(masked_mean(old.entropies, rollout.mask)),
        "explainedVariance": explained_variance(old.values, targets, rollout.mask),
        "responseLength": float(rollout.mask.sum(1).float().mean()),
        "eosShare": float(rollout.ended.float().mean()),
    }
