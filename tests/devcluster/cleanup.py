"""Ends what a cluster started, and empties its folder.

Called by `cluster`. It does not trust the state file: the processes are found by the state folder
in their environment, so containers and half-started clusters are caught too.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from devcluster import processes
from devcluster.errors import DevClusterError


def sweep(state: Path) -> None:
    """Ends every process that carries the state folder in its environment."""
    processes.stop(processes.strays(state), grace=2.0)
    while left := processes.strays(state):
        processes.stop(left, grace=0.2)


def wipe(state: Path) -> None:
    """Ends what is left of an earlier cluster and empties its folder."""
    sweep(state)
    marker = state / ".devcluster"
    if state.exists() and any(state.iterdir()) and not marker.exists():
        raise DevClusterError(
            f"{state} is not empty and is not a cluster's folder", "choose another state folder"
        )
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    marker.touch()
