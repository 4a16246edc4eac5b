"""How long a pod may take to save after it was told to stop. Pure.

Called by `plan.beginning` for a new attempt, and by `plan.workload` and `plan.run_file`, which must
tell the kubelet and the trainer the same.
"""

import math

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.observe.facts import Role
from finetune_operator.plan.decision import SHORTEST_GRACE, Creation
from finetune_operator.plan.hang import step_seconds

LONGEST = 600
# A trained parameter and AdamW's two moments of it, in float32.
CHECKPOINT_BYTES = 12
# Written, digested and uploaded; a store that is slower is known after the first checkpoint.
ASSUMED_BYTES_PER_SECOND = 50_000_000


def measured(status: FineTuneJobStatus) -> int:
    """Twice the time that the newest checkpoint took, and a step, since stopping waits for its end.

    Before the first one, its time is expected from the trained parameters that a preflight counted.
    """
    saved = _number(status.checkpoint.save_seconds if status.checkpoint else None)
    needed = 2 * (saved or _expected(status)) + (step_seconds(status.progress) or 0)
    return int(min(max(math.ceil(needed), SHORTEST_GRACE), LONGEST))


def _expected(status: FineTuneJobStatus) -> float:
    trained = status.plan.trainable_parameters if status.plan else None
    return max(trained or 0, 0) * CHECKPOINT_BYTES / ASSUMED_BYTES_PER_SECOND


def grace_seconds(creation: Creation) -> int:
    """The user's seconds, or the measured ones. A preflight has nothing to save."""
    given = creation.spec.run_policy.termination_grace_period_seconds
    if creation.role is Role.PREFLIGHT:
        return SHORTEST_GRACE
    return creation.grace_seconds if given == AUTO else int(given)


def _number(text: str | None) -> float:
    try:
        found = float(text or 0)
    except ValueError:
        return 0
    return found if math.isfinite(found) and found > 0 else 0
