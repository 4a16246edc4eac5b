"""AdaLoRA: adapters whose ranks are pruned while they are trained (Zhang et al. 2023, arXiv 2303.10512).

An update is P·Λ·Q. `config` makes it for PEFT; `Pruning` does in training what no trainer does by
itself: it asks PEFT for the importance of every triplet after each update and for the pruning, and it
keeps P and Q orthogonal. `schedule` says when ranks go.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft import AdaLoraConfig
from torch import Tensor, nn

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_api.v1alpha1.tuning import AdaLoRA, Tuning
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.heads import Head
from finetune_trainer.tuning.targets import choose_targets, whole_modules

ORTHOGONALITY = 0.5
"""Weight of the regulariser, γ of the paper; PEFT's default too."""
# The shares that the paper's runs on GLUE have: t_i of 8 to 12 %, t_f of 52 to 58 % of the updates.
_FULL, _FIXED = 0.1, 0.5
# Prunings on the way: more of them cost time and change little.
_PRUNINGS = 1000
_FIELD = "tuning.adalora"
# Where PEFT keeps what it has learnt about the triplets.
_WEIGHED = ("ipt", "exp_avg_ipt", "exp_avg_unc")


@dataclass(frozen=True)
class Schedule:
    """When ranks are pruned; all figures are updates.

    Attributes:
        total: All of them.
        full: At the start, with every rank.
        fixed: At the end, with the target ranks.
        every: Between two prunings.
    """

    total: int
    full: int
    fixed: int
    every: int


def schedule(updates: int) -> Schedule:
    """The schedule of a run; with few updates the ranks still come down.

    >>> schedule(100)
    Schedule(total=100, full=10, fixed=50, every=1)
    >>> schedule(1)
    Schedule(total=1, full=0, fixed=0, every=1)
    """
    return Schedule(
        updates, int(_FULL * updates), int(_FIXED * updates), max(1, updates // _PRUNINGS)
    )


def told(tuning: Tuning, updates: int) -> list[Resolved]:
    """The schedule for the status."""
    plan, block = schedule(updates), tuning.adalora or AdaLoRA()
    value = f"rank {block.initial_rank} to {block.target_rank}"
    if block.target_rank == block.initial_rank:
        why = "`targetRank` is `initialRank`: nothing is pruned"
    else:
        why = (
            f"of {updates} updates, {plan.full} with all ranks, then pruning until number "
            f"{updates - plan.fixed}, and {plan.fixed} with the ranks that are left"
        )
    return [Resolved(field=f"{_FIELD}.schedule", value=value, why=why)]


def config(model: Model, tuning: Tuning, head: Head) -> AdaLoraConfig:
    """PEFT's configuration for a model; the schedule is set by `Pruning`.

    Args:
        model: The base model, or its outline.
        tuning: The block of the spec.
        head: Which head the model carries.

    Raises:
        TrainerError: TargetModulesNotFound or InvalidSpec.
    """
    block = tuning.adalora or AdaLoRA()
    return AdaLoraConfig(
        init_r=block.initial_rank,
        target_r=block.target_rank,
        lora_alpha=block.alpha,
        # PEFT refuses to be without one.
        total_step=1,
        # PEFT would add it to the loss of each pass, so once more for each split of a batch, and only
        # where a trainer takes that loss: TRL's do not.
        orth_reg_weight=0.0,
        task_type=head.peft_task,
        target_modules=choose_targets(model, block.targets, head, field=f"{_FIELD}.targets"),
        modules_to_save=whole_modules(model, head) or None,
    )


def hold_divisors(model: Model) -> Model:
    """Freeze what updates are divided by, which is not stored with the adapter.

    PEFT makes it trainable where the base is held in bfloat16.
    """
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad_(False)
    return model


class Pruning:
    """Accompanies the training of one model.

    Args:
        model: With a trainable AdaLoRA adapter.
        updates: How many updates there will be.
    """

    def __init__(self, model: Model, updates: int) -> None:
        self._tuner = model.base_model
        self._config = model.peft_config["default"]
        self._done = 0
        plan = schedule(updates)
        self._config.total_step, self._config.deltaT = plan.total, plan.every
        self._config.tinit, self._config.tfinal = plan.full, plan.fixed
        self._singular = [
            each
            for name, each in model.named_parameters()
            if (".lora_A." in name or ".lora_B." in name) and each.requires_grad
        ]

    def add_gradients(self) -> None:
        """Add the gradients of the regulariser to those there are: once for each update."""
        with torch.enable_grad():
            penalty = ORTHOGONALITY * orthogonality(self._singular)
        for parameter, gradient in zip(
            self._singular, torch.autograd.grad(penalty, self._singular), strict=True
        ):
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient

    def updated(self) -> None:
        """Weigh and prune; the gradients of the update are still there."""
        self._done += 1
        if self._config.target_r == self._config.init_r:
            return
        if self._config.total_step - self._config.tfinal == 1:
            # PEFT does not weigh at the last pruning, and here there is none before it.
            self._tuner.rankallocator.update_ipt(self._tuner.model)
        self._tuner.update_and_allocate(self._done)

    def state_dict(self) -> dict[str, Any]:
        """How many updates are done, the weight of every triplet, and what was pruned last."""
        weighed = {name: getattr(self._tuner.rankallocator, name) for name in _WEIGHED}
        return {"done": self._done, "kept": self._config.rank_pattern, "weighed": weighed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._done, self._config.rank_pattern = state["done"], state["kept"]
        device = self._singular[0].device
        for name, tensors in state["weighed"].items():
            found = {parameter: each.to(device) for parameter, each in tensors.items()}
            setattr(self._tuner.rankallocator, name, found)

    def end(self) -> list[Resolved]:
        """What ranks are left.

        Raises:
            TrainerError: SanityCheckFailed if they are more than were wanted.
        """
        ranks = [sum(kept) for kept in (self._config.rank_pattern or {}).values()]
        if not ranks:
            return []
        mean = sum(ranks) / len(ranks)
        if mean > self._config.target_r:
            message = f"the adapter has rank {mean:.2f} on average, not {self._config.target_r}"
            raise TrainerError(Reason.SANITY_CHECK_FAILED, message)
        why = f"{min(ranks)} to {max(ranks)} in {len(ranks)} modules, as they matter for the loss"
        return [Resolved(field=f"{_FIELD}.targetRank", value=f"{mean:.2f}", why=why)]


def orthogonality(matrices: list[nn.Parameter]) -> Tensor:
    """How far the rows of each Q and the columns of each P are from orthonormal: a mean of norms.

    R = ‖PᵀP - I‖ + ‖QQᵀ - I‖, equation 4 of the paper, with PEFT's plain Frobenius norms.

    Args:
        matrices: P of shape (out, rank) and Q of shape (rank, in), rank below both others.
    """
    norms = []
    for matrix in matrices:
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        norms.append(torch.linalg.norm(wide @ wide.T - torch.eye(len(wide)).to(wide)))
    return torch.stack(norms).mean()
