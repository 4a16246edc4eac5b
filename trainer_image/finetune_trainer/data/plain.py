"""The columns of a row as one text, and back. Used by `data.mapped`.

JSON holds all that rows of JSON, CSV and text hold. What else a Parquet or Arrow file may hold, such as a
date, comes back as its name and text: no reward compares with it, and messages and digests say the same.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# No column of a file is called so.
_MARK = "\0other"


@dataclass(frozen=True)
class Other:
    """A value that JSON does not know.

    Attributes:
        kind: Name of its type.
        text: As `str` writes it.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        """As the value itself."""
        return self.text


def to_text(columns: Mapping[str, Any]) -> str:
    """Columns as JSON."""
    return _ENCODER.encode(columns)


def from_text(text: str) -> dict[str, Any]:
    """Columns from `to_text`."""
    found: dict[str, Any] = _DECODER.decode(text)
    return found


def kind_of(value: object) -> str:
    """Name of a value's type, also of one that comes from a file."""
    return value.kind if isinstance(value, Other) else type(value).__name__


def _marked(value: object) -> dict[str, list[str]]:
    return {_MARK: [kind_of(value), str(value)]}


def _unmarked(found: dict[str, Any]) -> object:
    return Other(*found[_MARK]) if _MARK in found else found


# Made once: `json.dumps` and `json.loads` would make one for every row.
_ENCODER = json.JSONEncoder(default=_marked)
_DECODER = json.JSONDecoder(object_hook=_unmarked)
