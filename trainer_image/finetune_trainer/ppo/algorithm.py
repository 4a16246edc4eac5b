"""Proximal policy optimisation (PPO) of a language model against a score: one step, in two parts.

`Algorithm.experience` judges a batch of answers, and `Algorithm.step` learns from that. A prompt with its
answer is an episode; a state is the text so far, an action the next token. Only the last action is scored,
by a reward model; every action pays for leaving the reference policy. `ppo.formulas` has the formulas and
their sources, `ppo.experience` what goes in and out.

    Stiennon et al. 2020, Learning to summarize from human feedback, arXiv 2009.01325

Called by `ppo.training`. It knows no tokenizer, no storage and no report. A mean over a batch is one over
its tokens, so that the split into micro-batches and among processes never changes an update.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from finetune_trainer import processes
from finetune_trainer.ppo import shares
from finetune_trainer.ppo.experience import Experience, Hyperparameters, Judgement, Pass, Policy
from finetune_trainer.ppo.formulas import (
    KLController,
    advantages_and_returns,
    explained_variance,
    masked_mean,
    policy_losses,
    token_rewards,
    value_losses,
    whiten,
)
from finetune_trainer.rollout import Rollout


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
