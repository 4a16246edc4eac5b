"""Runs one container's command as a child, as a container runtime's shim does.

Started by `containers` as a script, one per container; imports nothing of ours. It writes the
command's output line by line with timestamps, hands SIGTERM to the command itself and not to its
children (as Kubernetes does), and when the command has ended, kills every process that it left
behind. It also ends everything when the node agent dies: a kubelet's containers live on, but strays
on somebody's laptop would be worse. Exit code: the command's, or 128 plus the signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
KILL = signal.SIGUSR1
LIBC = ctypes.CDLL(None)


def main() -> int:
    """Runs `shim.py PARENT_PID LOG COMMAND...` in the present folder."""
    parent, log, *command = sys.argv[1:]
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509  (no threads yet)
    )
    signal.signal(signal.SIGTERM, lambda *_: send(child.pid, signal.SIGTERM))
    signal.signal(KILL, lambda *_: send(child.pid, signal.SIGKILL))
    LIBC.prctl(PR_SET_PDEATHSIG, int(KILL))
    if os.getppid() != int(parent):
        send(child.pid, signal.SIGKILL)
    pump = threading.Thread(target=copy_lines, args=(child, Path(log)))
    pump.start()
    code = wait_for(child)
    kill_descendants()
    pump.join()
    return code


def die_with_parent() -> None:
    """Makes the kernel kill the command if somebody kills the shim itself."""
    LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def copy_lines(child: subprocess.Popen[bytes], log: Path) -> None:
    """Appends the output to the log, each line after the time when it came."""
    with log.open("ab", buffering=0) as target:
        for line in child.stdout or ():
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ")
            target.write(stamp.encode() + line.rstrip(b"\n") + b"\n")


def wait_for(child: subprocess.Popen[bytes]) -> int:
    """Reaps children until the command itself has ended; returns its exit code."""
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            child.returncode = code
            return code if code >= 0 else 128 - code


def kill_descendants() -> None:
    """Kills what the command left; orphans come to us because we are their subreaper."""
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for pid in map(int, children):
            send(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
