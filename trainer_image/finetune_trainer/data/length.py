"""The longest row that is trained on, in tokens: a pure choice from the lengths that there are.

Used by `data.prepare`. What is longer is cut there, and counted.
"""

from collections.abc import Sequence
from math import ceil

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError

LENGTH_CAP = 4096
LENGTH_STEP = 8


def choose_max_length(
    wanted: int | str, lengths: Sequence[int], model_limit: int | None
) -> tuple[int, str]:
    """The longest row in tokens, and why.

    Args:
        wanted: `data.maxLength`.
        lengths: Tokens of each row.
        model_limit: Positions that the model has; None if it names none.

    Raises:
        TrainerError: InvalidSpec if more is wanted than the model has.
    """
    if isinstance(wanted, int):
        if model_limit and wanted > model_limit:
            message = f"`data.maxLength` is {wanted}, but the model has {model_limit} positions"
            raise TrainerError(Reason.INVALID_SPEC, message)
        return wanted, "as wanted"
    cap = min(model_limit or LENGTH_CAP, LENGTH_CAP)
    ordered = sorted(lengths)
    longest, usual = ordered[-1], ordered[ceil(0.99 * len(ordered)) - 1]
    # A few rows that are far longer than all others would set the memory for everyone.
    enough, what = (longest, "the longest row") if longest <= 2 * usual else (usual, "99 % of rows")
    length = min(cap, ceil(enough / LENGTH_STEP) * LENGTH_STEP)
    if enough > cap:
        return length, f"{what} has {enough} tokens; the cap is {cap}"
    return length, f"{what} fit ({enough} tokens); the longest row has {longest}"
