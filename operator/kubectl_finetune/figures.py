"""Small drawings and units as text: bars, sparklines, sizes, spans of time.

Used by `render`; pure. Each drawing has a form for terminals that know ASCII only.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=*#"


def bar(done: float, total: float, width: int = 30, *, ascii_only: bool = False) -> str:
    """A progress bar of `width` characters.

    >>> bar(3, 4, 8)
    '██████░░'
    """
    full, empty = ("#", ".") if ascii_only else ("█", "░")
    share = min(1.0, max(0.0, done / total)) if total > 0 else 0.0
    filled = int(share * width)
    return full * filled + empty * (width - filled)


def sparkline(values: Sequence[float], width: int = 30, *, ascii_only: bool = False) -> str:
    """The values as a line of blocks, low to high; longer series are averaged to the width.

    >>> sparkline([4, 2, 1])
    '█▃▁'
    """
    levels = ASCII_BLOCKS if ascii_only else BLOCKS
    shown = shorten(values, width)
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    top = len(levels) - 1
    return "".join(levels[round((each - low) / span * top) if span else 0] for each in shown)


def shorten(values: Sequence[float], width: int) -> list[float]:
    """At most `width` values: each the mean of its share of the series."""
    if len(values) <= width:
        return list(values)
    edges = [index * len(values) // width for index in range(width + 1)]
    parts = [values[start:end] for start, end in pairwise(edges)]
    return [sum(part) / len(part) for part in parts]


def span(seconds: float) -> str:
    """A span of time in its two largest units.

    >>> span(200), span(7260), span(-1)
    ('3m20s', '2h1m', '0s')
    """
    whole = max(0, int(seconds))
    days, hours = whole // 86400, whole // 3600 % 24
    minutes, rest = whole // 60 % 60, whole % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def age(since: datetime | None, now: datetime) -> str:
    """How long ago that was."""
    return span((now - since).total_seconds()) if since else ""


def size(count: float) -> str:
    """A number of bytes in decimal units.

    >>> size(19_560_000), size(900)
    ('19.6 MB', '900 B')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"
