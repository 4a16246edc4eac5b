"""Free TCP ports on loopback, for the servers of one cluster.

Called by `controlplane` and `s3` before they start anything. The ports are free when picked and not
reserved afterwards: a stranger may take one in between, and then that server's start fails.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Returns `count` different free ports (all held open until the last one is known)."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
