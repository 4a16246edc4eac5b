"""The formulas of PPO against closed forms, hand-computed cases and other ways to the same number."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from finetune_trainer.ppo.algorithm import Algorithm
from finetune_trainer.ppo.experience import Hyperparameters, Judgement
from finetune_trainer.ppo.formulas import (
    KLController,
    advantages_and_returns,
    explained_variance,
    policy_losses,
    token_rewards,
    value_losses,
    whiten,
)
from finetune_trainer.rollout import Rollout


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


def draw(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, dtype=torch.float64, generator=generator)


def test_only_the_last_written_token_is_scored_and_every_one_pays() -> None:
    log_ratios = tensor([0.1, -0.2, 0.3, 0.4], [0.5, 0.6, 9.0, 9.0])
    rewards = token_rewards(torch.tensor([2.0, -1.0]), log_ratios, MASK, 0.5)
    expected = tensor([-0.05, 0.1, -0.15, 2 - 0.2], [-0.25, -1 - 0.3, 0, 0])
    torch.testing.assert_close(rewards, expected)


def sum_of_deltas(rewards: list[float], values: list[float], gamma: float, trace: float) -> Tensor:
    """Equation 16 of the paper as it is written: a sum over all later temporal differences."""
    ahead = [*values[1:], 0.0]
    deltas = [r + gamma * v2 - v1 for r, v1, v2 in zip(rewards, values, ahead, strict=True)]
    length = len(deltas)
    return torch.tensor(
        [
            sum((gamma * trace) ** (k - t) * deltas[k] for k in range(t, length))
            for t in range(length)
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize(
    ("gamma", "trace"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.9, 0.0), (0, 1)]
)
def test_advantages_are_the_sums_of_the_paper(gamma: float, trace: float) -> None:
    rewards, values = draw(1), draw(2)
    advantages, targets = advantages_and_returns(rewards, values, MASK, gamma, trace)
    for row, length in ((0, 4), (1, 2)):
        r, v = rewards[row, :length].tolist(), values[row, :length].tolist()
        expected = sum_of_deltas(r, v, gamma, trace)
        torch.testing.assert_close(advantages[row, :length], expected)
        torch.testing.assert_close(targets[row, :length], expected + values[row, :length])
        assert not advantages[row, length:].any()
        assert not targets[row, length:].any()


def test_with_lambda_one_the_target_is_the_discounted_return() -> None:
    rewards, values = draw(1), draw(2)
    _, targets = advantages_and_returns(rewards, values, MASK, 0.5, 1.0)
    r = rewards[0].tolist()
    first = r[0] + 0.5 * r[1] + 0.25 * r[2] + 0.125 * r[3]
    assert float(targets[0, 0]) == pytest.approx(first)
    assert float(targets[1, 1]) == pytest.approx(float(rewards[1, 1]))


def test_whitened_values_have_the_wanted_moments() -> None:
    values = draw() * 3 + 5
    inside = values[MASK]
    moved, kept = whiten(values, MASK, shift=True), whiten(values, MASK, shift=False)
    assert float(moved[MASK].mean()) == pytest.approx(0, abs=1e-9)
    assert float(moved[MASK].std(unbiased=False)) == pytest.approx(1, abs=1e-6)
    assert float(kept[MASK].mean()) == pytest.approx(float(inside.mean()))
    torch.testing.assert_close(kept[MASK] - kept[MASK].mean(), moved[MASK])
    assert not moved[~MASK].any()


def test_whitening_leaves_equal_values_finite() -> None:
    assert torch.equal(whiten(torch.full((2, 4), 7.0), MASK, shift=True), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # clipped at 1.2: nothing more to gain
        (0.5, 2.0, -1.0, -2.0),  # out of range on the bad side: full slope back
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
        (1.5, -2.0, 3.0, 2.0),
    ],
)
def test_policy_loss_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    ratios = torch.tensor(ratio, requires_grad=True)
    value = policy_losses(ratios, torch.tensor(advantage), 0.2)
    value.backward()
    assert float(value.detach()) == pytest.approx(loss)
    assert float(ratios.grad) == pytest.approx(slope)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "slope"),
    [
        (0.1, 0.0, 1.0, 0.405, -0.9),  # within the range: half the squared error
        (0.5, 0.0, 1.0, 0.32, 0.0),  # moved too far towards the target: held at 0.2
        (-0.5, 0.0, 1.0, 1.125, -1.5),  # moved away: the whole error
    ],
)
def test_value_loss_by_hand(
    value: float, old: float, target: float, loss: float, slope: float
) -> None:
    values = torch.tensor(value, requires_grad=True)
    result = value_losses(values, torch.tensor(old), torch.tensor(target), 0.2)
    result.backward()
    assert float(result.detach()) == pytest.approx(loss)
    assert float(values.grad) == pytest.approx(slope)


def test_losses_have_the_gradients_that_finite_differences_give() -> None:
    advantages, old, targets = draw(3), draw(4), draw(5)
    log_ratios = (draw(6) / 3).requires_grad_()
    values = (old + draw(7)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy_losses(x.exp(), advantages, 0.2), log_ratios)
    assert torch.autograd.gradcheck(lambda x: value_losses(x, old, targets, 0.2), values)


def test_at_ratio_one_the_gradient_is_that_of_the_policy_gradient_theorem() -> None:
    advantages = draw(3)
    log_ratios = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    policy_losses(log_ratios.exp(), advantages, 0.2).sum().backward()
    torch.testing.assert_close(log_ratios.grad, -advantages)


def test_explained_variance() -> None:
    targets = draw(1)
    assert explained_variance(targets, targets, MASK) == 1
    assert explained_variance(torch.full_like(targets, 3), targets, MASK) == pytest.approx(0)
    assert explained_variance(-targets, targets, MASK) == pytest.approx(-3)
    assert explained_variance(targets, torch.ones_like(targets), MASK) == 0


def test_the_fixed_penalty_stays_and_the_adaptive_one_follows() -> None:
    fixed = KLController(0.05, None)
    fixed.update(100.0)
    assert fixed.coefficient == 0.05
    adaptive = KLController(0.1, 6.0)
    for kl, factor in ((6.0, 1.0), (600.0, 1.02), (0.0, 0.98), (6.6, 1.01), (5.4, 0.99)):
        before = adaptive.coefficient
        adaptive.update(kl)
        assert adaptive.coefficient / before == pytest.approx(factor)


@dataclass
class Table:
    """A policy without a network: one free logit vector a state, so that all is known exactly."""

    logits: Tensor
    reference: Tensor
    rate: float

    def judge(self, rollout: Rollout) -> Judgement:
        logs = self.logits.log_softmax(-1)[None, : rollout.answers.shape[1]]
        logs = logs.expand(len(rollout.answers), -1, -1)
        chosen = logs.gather(2, rollout.answers.unsqueeze(2)).squeeze(2) * rollout.mask
        entropies = -(logs.exp() * logs).sum(2) * rollout.mask
        return Judgement(chosen, entropies, torch.zeros_like(chosen))

    def reference_log_probabilities(self, rollout: Rollout) -> Tensor:
        logs = self.reference.log_softmax(-1)[None].expand(len(rollout.answers), -1, -1)
        return logs.gather(2, rollout.answers.unsqueeze(2)).squeeze(2) * rollout.mask

    def accumulating(self, more: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def update(self) -> None:
        with torch.no_grad():
            self.logits -= self.rate * self.logits.grad
        self.logits.grad = None


def table(rate: float = 1.0) -> Table:
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Table(logits.clone().requires_grad_(), logits.clone(), rate)


def rollout_of(policy: Table, rows: int, seed: int) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(
        policy.logits.detach().softmax(-1), rows, replacement=True, generator=generator
    )
    lengths = torch.randint(1, 4, (rows,), generator=generator)
    mask = torch.arange(3)[None] < lengths[:, None]
    prompt = torch.zeros(rows, 1, dtype=torch.long)
    ended = torch.ones(rows, dtype=torch.bool)
    return Rollout(prompt, prompt == 0, drawn.T * mask, mask, ended)


def settings(**changes: float) -> Hyperparameters:
    return Hyperparameters(**{"kl_coefficient": 0.1, **changes})  # type: ignore[arg-type]


def test_first_step_figures_are_known() -> None:
    policy = table(rate=0.0)
    rollout = rollout_of(policy, 6, 0)
    scores = torch.arange(6.0)
    figures = Algorithm(policy, settings(), micro_batch=2, seed=0).step(rollout, scores)
    assert (figures["kl"], figures["clipFraction"], figures["approximateKl"]) == (0, 0, 0)
    assert figures["reward"] == 2.5
    assert figures["eosShare"] == 1
    assert figures["responseLength"] == pytest.approx(float(rollout.mask.sum()) / 6)
    # At ratio 1 the loss is minus the mean advantage, which is whitened to 0.
    assert figures["policyLoss"] == pytest.approx(0, abs=1e-7)
    # No value yet: the loss is half the mean square of the targets, here the score (gamma 1,
    # lambda 0.95: discounted by the distance to the end).
    lengths = rollout.mask.sum(1)
    squares = [
        (float(score) * 0.95**back) ** 2
        for score, length in zip(scores, lengths.tolist(), strict=True)
        for back in range(length)
    ]
    assert figures["valueLoss"] == pytest.approx(0.5 * sum(squares) / len(squares), rel=1e-6)


def test_an_update_is_the_same_however_it_is_split() -> None:
    results = []
    for micro_batch in (1, 4, 12):
        policy = table()
        rollout = rollout_of(policy, 12, 3)
        scores = torch.linspace(-1, 1, 12)
        Algorithm(policy, settings(epochs=2, minibatches=3), micro_batch=micro_batch, seed=5).step(
            rollout, scores
        )
        results.append(policy.logits.detach())
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])
    assert (results[0] - table().logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("minibatches", "micro_batch", "passes"),
    # Passes of rows that are judged, and those of two epochs of updates.
    [(3, 4, 3 + 6 - 1), (3, 12, 2 + 6 - 1), (3, 2, 6 + 12 - 1), (1, 12, 1 + 2 - 1)],
)
def test_the_first_pass_of_the_first_update_is_not_computed_twice(
    minibatches: int, micro_batch: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, seen = table(), []
    judge = policy.judge
    monkeypatch.setattr(policy, "judge", lambda rollout: (seen.append(1), judge(rollout))[1])
    how = settings(epochs=2, minibatches=minibatches)
    learner = Algorithm(policy, how, micro_batch=micro_batch, seed=5)
    learner.step(rollout_of(policy, 12, 3), torch.linspace(-1, 1, 12))
    assert len(seen) == passes


def test_the_table_learns_and_the_penalty_holds_it_back() -> None:
    divergences = []
    for coefficient in (0.0, 2.0):
        policy = table(rate=3.0)
        learner = Algorithm(policy, settings(kl_coefficient=coefficient), micro_batch=64, seed=0)
        for step in range(60):
            rollout = rollout_of(policy, 64, step)
            scores = ((rollout.answers == 2) & rollout.mask).sum(1) / rollout.mask.sum(1)
            figures = learner.step(rollout, scores)
        divergences.append(figures["kl"])
        if coefficient == 0:
            assert figures["reward"] > 0.9
            assert policy.logits.detach().softmax(-1)[:, 2].min() > 0.8
    assert divergences[1] < divergences[0] / 4


def test_an_answer_without_an_end_costs_the_penalty() -> None:
    policy = table()
    rollout = rollout_of(policy, 2, 0)
    unended = Rollout(
        rollout.prompts,
        rollout.prompt_mask,
        rollout.answers,
        rollout.mask,
        torch.tensor([True, False]),
    )
    learner = Algorithm(
        policy, settings(missing_eos_penalty=3.0, gae_lambda=1.0), micro_batch=2, seed=0
    )
    experience = learner.experience(unended, torch.tensor([1.0, 1.0]))
    # Without values, gamma 1 and lambda 1, every token's target is what the answer earns.
    assert experience.targets[0, 0] == 1
    assert experience.targets[1, 0] == -2
    assert experience.figures["reward"] == 1
    assert experience.figures["eosShare"] == 0.5
    assert math.isfinite(float(experience.advantages.sum()))
