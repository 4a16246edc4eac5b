"""The two ways a run ends early: a failure with a reason, and a request to stop.

Raised everywhere in the trainer; `outcome` turns them into the report. Nothing is caught or printed
here.
"""

from finetune_api.v1alpha1.reasons import Reason


class TrainerError(Exception):
    """A failure that the user can read about.

    Attributes:
        reason: One word for the class of failure.
        message: What is wrong, and where.
        hint: What to do about it; without it, the reason's own hint is shown.
    """

    def __init__(self, reason: Reason, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint


class StopRequestedError(BaseException):
    """SIGTERM or SIGINT arrived.

    Not an `Exception`, so that no library between the signal and `main` can swallow it.
    """
