"""What must hold before the first update of PPO, exactly: the first step's known answers.

Called by `ppo.training`. Policy and reference are one model as long as the adapter stands where it
began, and a policy that has not been updated agrees with itself. If not, every update would learn from
ratios and penalties that mean nothing, and nothing else would show it.
"""

import torch

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.ppo import shares
from finetune_trainer.ppo.experience import Experience, Policy

# On a GPU, a forward pass with gradients may take another kernel than one without.
_OTHER_KERNEL = 1e-3


def check(
    policy: Policy, experience: Experience, *, micro_batch: int, clip_range: float, start: float
) -> None:
    """See that ratios are 1, that nothing is clipped and that the divergence is 0.

    Args:
        policy: As it wrote the answers.
        experience: What is about to be learned from.
        micro_batch: Rows of a forward pass.
        clip_range: Of the ratio.
        start: How far policy and reference may differ, in nats a token; 0 for most tunings.

    Raises:
        TrainerError: SanityCheckFailed with the deviation.
    """
    exact = experience.old.values.device.type == "cpu"
    tolerance = 0.0 if exact else _OTHER_KERNEL
    own = shares.own(len(experience.old.values))
    first: slice | torch.Tensor = slice(own.start, min(own.start + micro_batch, own.stop))
    if experience.first is not None:
        # The same rows beside each other, for sums in the same order.
        first = experience.first.rows
    rollout = experience.rollout.rows(first)
    old = experience.old.log_probabilities[first]
    ratio = _largest((policy.judge(rollout).log_probabilities.detach() - old).exp() - 1)
    if not ratio <= min(tolerance, clip_range):
        raise _failed(f"the policy differs from itself: its ratios are 1 up to {ratio:.3g}")
    divergence = _largest(old - policy.reference_log_probabilities(rollout))
    if not divergence <= max(tolerance, start):
        raise _failed(
            f"the policy differs from its reference by up to {divergence:.3g} nats a token"
        )


def _largest(values: torch.Tensor) -> float:
    # NaN, if there is one.
    return float(values.abs().max())


def _failed(what: str) -> TrainerError:
    return TrainerError(Reason.SANITY_CHECK_FAILED, f"before the first update, {what}")
