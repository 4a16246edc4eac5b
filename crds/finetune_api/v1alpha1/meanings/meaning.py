"""What a reason says of a job: its kind of failure, a sentence, and what to do."""

from dataclasses import dataclass
from enum import StrEnum


class FailureClass(StrEnum):
    """What kind of failure a reason stands for; it decides whether a retry can help."""

    NONE = "None"
    USER_ERROR = "UserError"
    INFRASTRUCTURE = "Infrastructure"
    OUT_OF_MEMORY = "OutOfMemory"
    DIVERGED = "Diverged"
    DISRUPTION = "Disruption"
    HANG = "Hang"
    INTERNAL = "Internal"


@dataclass(frozen=True)
class Meaning:
    """What a reason says, for the user."""

    failure: FailureClass
    text: str
    hint: str = ""
