"""Where the development cluster keeps things on this machine.

Used by `binaries` (what is expensive and shared) and `cluster` (what one cluster throws away).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """Returns `$FINETUNE_CACHE`, or the usual per-user cache folder."""
    given = os.environ.get("FINETUNE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "finetune-operator"


def default_state_dir() -> Path:
    """Returns the folder of the one cluster that `make demo` uses."""
    return cache_dir() / "devcluster"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file, so that two processes do not do the same work at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
