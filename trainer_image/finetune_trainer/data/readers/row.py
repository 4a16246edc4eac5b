"""A row as it was read, and the failure that names where it stands.

Made by the readers, taken apart by `data.formats`. Nothing is known here about formats.
"""

from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError


@dataclass(frozen=True)
class Row:
    """One row as it was read.

    Attributes:
        columns: Values by column name.
        origin: File and line (or item, or row), for messages.
    """

    columns: dict[str, Any]
    origin: str


def invalid(origin: str, what: str, hint: str | None = None) -> TrainerError:
    """A row that cannot be used.

    Args:
        origin: File and line.
        what: What is wrong with it.
        hint: What to do; without it, the reason's own hint.
    """
    return TrainerError(Reason.DATA_INVALID, f"{origin}: {what}", hint)


def kind(value: object) -> str:
    """A value's type in the words of JSON."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")
