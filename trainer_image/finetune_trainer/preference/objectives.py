"""The losses of pairs that need no reference: ORPO, CPO and SimPO, as formulas.

Used by `pair_trainer`. With π the policy, Σ the sum of ln π over the tokens of an answer and μ their
mean; ⁺ is the better answer, ⁻ the worse one, σ the logistic function:

    ORPO (Hong et al. 2024, arXiv 2403.07691)    -β ln σ(o⁺ - o⁻) - ln π(x, y⁺),  o = ln(p / (1 - p)), p = e^μ
    CPO (Xu et al. 2024, arXiv 2401.08417)       -ln σ(β(Σ⁺ - Σ⁻)) - α ln π(y⁺)
    SimPO (Meng et al. 2024, arXiv 2405.14734)   -ln σ(β(μ⁺ - μ⁻) - γ)

The first term is a mean over pairs, the likelihood a mean over tokens: those of the answer for CPO, and
as in the authors' program those of the prompt too for ORPO.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from finetune_api.v1alpha1 import method

LN2 = 0.6931471805599453
# An answer that is all but certain has no odds; below it, float32 tells them.
CERTAIN = -1e-6

Preference = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """One loss.

    Attributes:
        preference: The losses of pairs, of the log-probabilities of both answers; all of shape (pairs,).
        beta: The reward of an answer is β times its log-probability.
        per_token: Whether a log-probability is the mean over the tokens of its answer, or the sum.
        likelihood: Weight of the likelihood of better answers.
        on_prompts: Whether that is of the prompts too.
    """

    preference: Preference
    beta: float
    per_token: bool
    likelihood: float = 0.0
    on_prompts: bool = False


def orpo(block: method.ORPO) -> Objective:
    """Odds ratio preference optimisation."""

    def preference(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return -block.beta * logsigmoid(log_odds(chosen) - log_odds(rejected))

    return Objective(preference, block.beta, per_token=True, likelihood=1.0, on_prompts=True)


def cpo(block: method.CPO) -> Objective:
    """Contrastive preference optimisation."""

    def preference(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return -logsigmoid(block.beta * (chosen - rejected))

    return Objective(preference, block.beta, per_token=False, likelihood=block.alpha)


def simpo(block: method.SimPO) -> Objective:
    """Simple preference optimisation."""

    def preference(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return -logsigmoid(block.beta * (chosen - rejected) - block.gamma)

    return Objective(preference, block.beta, per_token=True)


def log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    """The logarithm of p / (1 - p), of that of p.

    >>> log_odds(torch.tensor([0.5, 0.75]).log())
    tensor([0.0000, 1.0986])
    """
    value = log_probability.clamp(max=CERTAIN)
    # Each form loses digits where the other one does not.
    against = torch.where(value > -LN2, torch.log(-torch.expm1(value)), torch.log1p(-value.exp()))
    return value - against
