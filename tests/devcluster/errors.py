"""The two kinds of trouble the development cluster can tell about.

Raised everywhere in this package; `__main__` prints a `DevClusterError` without a traceback.
"""

from __future__ import annotations

from pathlib import Path


class DevClusterError(RuntimeError):
    """What is wrong with the cluster itself, and what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(f"{what}\n  hint: {hint}" if hint else what)


class NotReadyError(Exception):
    """A container cannot start yet; a kubelet shows such a reason and tries again."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def tail(log: Path, lines: int = 15) -> str:
    """Returns the last lines of a log, indented, for an error message."""
    if not log.exists():
        return "    (no log)"
    text = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join(f"    {line[:400]}" for line in text) or "    (empty log)"
