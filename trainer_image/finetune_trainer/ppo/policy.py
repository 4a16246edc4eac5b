"""A language model as PPO sees it: log-probabilities, values and a reference, and how it is updated.

Made by `ppo.training`. The value head reads the last hidden state of the policy and sends no gradient
back into it: learning values cannot bend the policy, which Stiennon et al. 2020 (arXiv 2009.01325)
reach with a second network. It costs two small matrices in place of a second model.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from finetune_trainer import processes
from finetune_trainer.foreign import Model
from finetune_trainer.ppo import reading
from finetune_trainer.ppo.experience import Judgement
from finetune_trainer.ppo.reading import Reader
from finetune_trainer.reference import Reference, silence_dropout
from finetune_trainer.rollout import Rollout
from finetune_trainer.sharded import unwrapped

# Wide enough for any hidden size; the head stays far below a per cent of the model.
_HEAD_WIDTH = 256


class ValueHead(nn.Module):
    """From a hidden state to the expected return: one hidden layer, in float32, at first 0."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        width = min(hidden_size, _HEAD_WIDTH)
        self.inner = nn.Linear(hidden_size, width)
        self.outer = nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values of shape (rows, tokens) from hidden states (rows, tokens, hidden size)."""
        values: Tensor = self.outer(torch.tanh(self.inner(hidden.float()))).squeeze(-1)
        return values


@dataclass(frozen=True)
class Optimization:
    """How gradients are applied.

    Attributes:
        policy: Optimiser of the policy.
        values: Optimiser of the value head.
        max_norm: Gradients of each are scaled down to this norm; 0 leaves them.
        before: Called with gradients there, before each update.
        after: Called after each update, with the gradients still there.
    """

    policy: torch.optim.Optimizer
    values: torch.optim.Optimizer
    max_norm: float
    before: Callable[[], None]
    after: Callable[[], None]


class _Judging(nn.Module):
    """Policy and value head as one module, so that the gradients of both can be averaged together."""

    def __init__(self, model: Model, head: ValueHead, reader: Reader) -> None:
        super().__init__()
        self.model, self.head = model, head
        self._reader = reader

    def forward(self, rollout: Rollout) -> Judgement:
        """See `experience.Policy.judge`."""
        read = self._reader(self.model, rollout)
        values = self.head(read.hidden).masked_fill(~rollout.mask, 0)
        return Judgement(read.log_probabilities, read.entropies, values)


class LanguagePolicy:
    """A causal language model with its value head, its reference and its optimisers.

    Attributes:
        model: The policy; an adapter on it is what is trained, or all of it.
        head: The value head.
        reference: What the policy is compared with.
        wrapped: Both as one module; with several processes, within what averages their gradients.
        fitted: The fast paths by which both are read.
        gradient_norm: Of the policy at the last update, before clipping.
    """

    def __init__(
        self,
        reference: Reference,
        head: ValueHead,
        optimization: Optimization,
        *,
        temperature: float,
        precision: torch.dtype,
    ) -> None:
        """Take hold of the model.

        Args:
            reference: With the policy.
            head: On the same device.
            optimization: How gradients are applied.
            temperature: Of the distributions that answers are drawn from.
            precision: Arithmetic of the forward pass.
        """
        self.model: Model = reference.policy
        self.head = head
        self.gradient_norm = 0.0
        self.reference = reference
        self._optimization = optimization
        silence_dropout(self.model)
        way = reading.way(reference, temperature, precision)
        self._reader, self.fitted = way.read, way.fitted
        judging = _Judging(self.model, head, self._reader)
        self.wrapped: nn.Module = judging
        if processes.world_size() > 1:
            self.wrapped = DistributedDataParallel(judging, broadcast_buffers=False)

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """Those of the policy and of the value head."""
        return self._optimization.policy, self._optimization.values

    def judge(self, rollout: Rollout) -> Judgement:
        """See `experience.Policy`."""
        judging = self.wrapped if torch.is_grad_enabled() else unwrapped(self.wrapped)
        found: Judgement = judging(rollout)
        return found

    def accumulating(self, more: bool) -> AbstractContextManager[None]:
        """See `experience.Policy`."""
        if more and isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return nullcontext()

    @torch.no_grad()
    def reference_log_probabilities(self, rollout: Rollout) -> Tensor:
        """See `experience.Policy`."""
        with self.reference.model() as net:
            return self._reader(net, rollout).log_probabilities

    def update(self) -> None:
        """See `experience.Policy`."""
        how = self._optimization
        how.before()
        self.gradient_norm = _clip(how.policy, how.max_norm)
        _clip(how.values, how.max_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        how.after()
        for optimizer in self.optimizers:
            optimizer.zero_grad()


def _clip(optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    parameters: Sequence[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    return float(nn.utils.clip_grad_norm_(parameters, max_norm or float("inf")))
