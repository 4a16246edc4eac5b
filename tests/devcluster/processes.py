"""Background processes that outlive the command which started them, and are found again later.

Used by `controlplane`, `s3` and `cluster`. Each process carries the cluster's state folder in its
environment, and is remembered by pid and start time, so that a stranger who got a reused pid is
never killed. Linux only (it reads /proc).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from devcluster.errors import DevClusterError, tail

MARKER = "FINETUNE_DEVCLUSTER"


@dataclass(frozen=True)
class Process:
    """One background process.

    Attributes:
        started: The kernel's start time of the pid.
        argv: What was started; empty for a stray.
    """

    name: str
    pid: int
    started: int
    log: str
    argv: Sequence[str] = ()

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless the process is gone."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def check(self) -> None:
        """Raises with the end of the log when the process has died."""
        if not self.alive:
            raise DevClusterError(
                f"{self.name} has ended; its log ends with\n{tail(Path(self.log))}"
            )

    def to_dict(self) -> dict[str, object]:
        """Returns the JSON form for the state file."""
        return asdict(self)


def spawn(
    name: str, argv: Sequence[str | Path], state: Path, env: dict[str, str] | None = None
) -> Process:
    """Starts a process in a session of its own, with its output in `<state>/logs/<name>.log`."""
    log = state / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in argv]
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        words[0],
        words,
        {**os.environ, **(env or {}), MARKER: str(state)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return Process(name, pid, start_time(pid) or 0, str(log), words)


def start_time(pid: int) -> int | None:
    """Returns the kernel's start time of a pid in clock ticks; None for a dead one or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def stop(processes: Iterable[Process], grace: float = 5.0) -> None:
    """Ends processes together: SIGTERM, and SIGKILL after the grace time (at once if it is 0)."""
    todo = list(processes)
    for process in todo if grace else []:
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGCONT)  # a paused one would not hear the first
    deadline = time.monotonic() + grace
    while any(process.alive for process in todo) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in todo:
        process.signal(signal.SIGKILL)
    while any(process.alive for process in todo):
        time.sleep(0.02)


def strays(state: Path) -> list[Process]:
    """Returns every process on this machine that carries the state folder in its environment."""
    wanted = f"{MARKER}={state}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and wanted in environ(entry):
            pid = int(entry.name)
            if (started := start_time(pid)) is not None:
                found.append(Process("stray", pid, started, ""))
    return found


def environ(proc: Path) -> list[bytes]:
    """Returns the environment entries of a process; none for one of another user."""
    try:
        return (proc / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
