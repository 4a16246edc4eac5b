"""Makes text of others safe to show: no terminal escapes, no control characters, bounded.

Termination messages, logs and kubelet messages are written by tenants' code. They reach terminals
through `kubectl get -o yaml` and our command line.
"""

import re
import unicodedata

MAX_MESSAGE = 2048
MAX_TAIL = 4096
MAX_TAIL_LINES = 20
MAX_LINE = 500

_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.?)", re.DOTALL)
# Control, format (bidirectional overrides), surrogate: what a terminal may obey or a codec refuse.
_UNSAFE = ("Cc", "Cf", "Cs")


def one_line(text: object, limit: int = MAX_MESSAGE) -> str:
    """The text on one line without control characters, cut at `limit` characters."""
    return cut(" ".join(_printable(str(text), limit).split()), limit)


def tail(lines: tuple[str, ...]) -> str | None:
    """The last lines for `status.failure.logTail`; None if there is nothing to show."""
    # Progress bars overwrite their line: what stands after the last carriage return was visible.
    visible = [line.rstrip().rsplit("\r", 1)[-1] for line in lines]
    printable = [cut(_printable(line, MAX_LINE).rstrip(), MAX_LINE) for line in visible]
    shown = [line for line in printable if line][-MAX_TAIL_LINES:]
    while shown and len("\n".join(shown)) > MAX_TAIL:
        shown.pop(0)
    return "\n".join(shown) or None


def clean(value: object) -> object:
    """A JSON value in which every string, keys included, is on one safe line."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {one_line(key): clean(item) for key, item in value.items()}
    return value


def cut(text: str, limit: int) -> str:
    """The text, shortened with an ellipsis if it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _printable(text: str, limit: int) -> str:
    return "".join(_safe(character) for character in _ESCAPE.sub("", text[: 4 * limit]))


def _safe(character: str) -> str:
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) in _UNSAFE else character
