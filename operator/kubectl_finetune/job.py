"""A FineTuneJob as the plugin reads it: the raw object, with typed and forgiving access.

Made by `cluster`, read by `render` and `follow`. An older plugin must show the jobs of a newer
operator, so unknown fields are ignored, and a missing or odd value reads as absent, never as an error.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Outcome = Literal["Complete", "Failed"]
# Escape sequences first, then any other control character: status text may quote a pod's log.
_UNPRINTABLE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: object) -> str:
    """Any value as text that cannot move a terminal's cursor."""
    return _UNPRINTABLE.sub("", str(text))


def dig(value: object, path: str) -> object:
    """The value at a dotted path of nested mappings; None where the path ends early."""
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def time(value: object) -> datetime | None:
    """A Kubernetes time; None for anything else."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else None


@dataclass(frozen=True)
class Block:
    """One mapping of the object; every reader gives None for what is absent or of another type."""

    raw: Mapping[str, Any]

    def text(self, path: str) -> str | None:
        """Printable text: of a string, a number or a truth value."""
        value = dig(self.raw, path)
        return clean(value) if isinstance(value, str | int | float) and value != "" else None

    def number(self, path: str) -> float | None:
        """A number, also where the API writes it as a string."""
        value = dig(self.raw, path)
        try:
            return float(value) if isinstance(value, str | int | float) else None
        except ValueError:
            return None

    def time(self, path: str) -> datetime | None:
        """A time with its zone."""
        return time(dig(self.raw, path))

    def mapping(self, path: str) -> Mapping[str, object]:
        """The mapping at a path; empty where there is none."""
        value = dig(self.raw, path)
        return value if isinstance(value, Mapping) else {}

    def blocks(self, path: str) -> Sequence["Block"]:
        """The mappings of a list."""
        value = dig(self.raw, path)
        entries = value if isinstance(value, list) else []
        return [Block(entry) for entry in entries if isinstance(entry, Mapping)]


@dataclass(frozen=True)
class Job(Block):
    """One FineTuneJob."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.text("metadata.name") or "?"

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.text("metadata.namespace") or "default"

    @property
    def state(self) -> str:
        """The display word; a job that no operator has seen yet is `Waiting`."""
        return self.text("status.state") or "Waiting"

    @property
    def conditions(self) -> Sequence[Block]:
        """Its conditions, in the operator's order."""
        return self.blocks("status.conditions")

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, by its conditions; None while it has not."""
        for condition in self.conditions:
            if condition.text("status") == "True":
                if condition.text("type") == "Complete":
                    return "Complete"
                if condition.text("type") == "Failed":
                    return "Failed"
        return None
