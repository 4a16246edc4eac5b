"""Reads fields of cluster objects that somebody else wrote, whatever stands in them.

A field of the wrong type reads as absent. One poisoned child must not stop its neighbours, so the
readers in this folder never raise for what an object holds.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from finetune_operator.observe.text import one_line

Body = Mapping[str, Any]
MAX_INTEGER = 2**53


def block(body: object, *path: str) -> Body:
    """The mapping at a path; empty if there is none."""
    for name in path:
        body = body.get(name) if isinstance(body, Mapping) else None
    return body if isinstance(body, Mapping) else {}


def items(body: Body, name: str) -> Iterator[Body]:
    """The mappings in a list."""
    found = body.get(name)
    return (
        (item for item in found if isinstance(item, Mapping))
        if isinstance(found, list)
        else iter(())
    )


def text(body: Body, name: str) -> str:
    """A text on one line; empty if there is none."""
    found = body.get(name)
    return one_line(found) if isinstance(found, str) else ""


def raw_text(body: Body, name: str, limit: int) -> str:
    """A text as it stands, cut at `limit` characters; empty if there is none."""
    found = body.get(name)
    return found[:limit] if isinstance(found, str) else ""


def number(value: object, default: int = 0) -> int:
    """A whole number, also if written as text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return default
    return value


def time(value: object) -> datetime | None:
    """A time in UTC; None if absent or unreadable."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def time_text(value: datetime) -> str:
    """A time as the API writes it."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
