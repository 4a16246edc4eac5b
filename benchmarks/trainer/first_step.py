"""The case of the first step: `finetune-trainer run` against `trl sft`, from the start of the process.

Each is the command that a user types, with its own imports, its own reading of files and its own checks; both
train LoRA on the same rows, all of which stand in the first step, so that the losses of that step must be
equal whatever the order. Contestants take turns. What a command tells of its first step ends its time; the
CPU time is that of all processes that it started. Called by `__main__`, like the other cases.
"""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trainer import sft
from trainer.case import OURS
from trainer.figures import Goal, Spread, ratios
from trainer.workplace import Workplace

CASE = "first step"
BATCH = 4
STOCK = "trl sft"
# Sums in another order; the libraries' own rounding of what they print.
_TOLERANCE = 1e-3
_LIMIT_SECONDS = 300
_TICKS = os.sysconf("SC_CLK_TCK")
_TOLD = {OURS: re.compile(r'"loss":\s*"([0-9.]+)"'), STOCK: re.compile(r"'loss': '?([0-9.]+)")}


@dataclass(frozen=True)
class FirstStep:
    """One run up to its first step.

    Attributes:
        seconds: By the clock.
        cpu_seconds: Of all its processes.
        loss: Of that step, as it is told.
    """

    seconds: float
    cpu_seconds: float
    loss: float


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        case: What is measured.
        contestant: Who.
        rounds: Runs.
        seconds: By the clock.
        cpu_seconds: Of all its processes.
        share_of_ours: Our seconds over this one's, round by round.
        cpu_share_of_ours: The same by CPU time.
        goals: What is wanted of ours against this one, and whether it is met.
    """

    case: str
    contestant: str
    rounds: int
    seconds: Spread
    cpu_seconds: Spread
    share_of_ours: Spread
    cpu_share_of_ours: Spread
    goals: list[Goal]


class OneStep(Workplace):
    """A workplace whose rows all stand in the first step, which is the last."""

    @property
    def rows(self) -> int:
        """Rows of the data."""
        return self.batch


Runs = dict[str, list[FirstStep]]


def add_round(folder: Path, runs: Runs, turn: int) -> None:
    """Run both in turn, and see that they train alike.

    Args:
        folder: Where they read and write.
        runs: Takes what is found, by contestant.
        turn: Of which round; every other one begins with the other contestant.
    """
    # With one step in all, it is told at once by both.
    place = OneStep(folder, 1, BATCH)
    own = [sys.executable, "-P", "-m", "finetune_trainer", "run", str(sft.job(place))]
    commands = {OURS: own, STOCK: sft.command(place)}
    for name in list(commands)[:: 1 if turn % 2 == 0 else -1]:
        runs.setdefault(name, []).append(first_step(name, commands[name], folder))
    mine, theirs = runs[OURS][-1].loss, runs[STOCK][-1].loss
    if abs(mine - theirs) > _TOLERANCE * mine:
        raise SystemExit(f"not the same first step: losses {mine} and {theirs}")


def compared(runs: Runs) -> list[Row]:
    """A row for each contestant."""
    return [_row(name, runs[OURS], runs[name]) for name in (OURS, STOCK) if name in runs]


def _row(name: str, mine: list[FirstStep], theirs: list[FirstStep]) -> Row:
    share = ratios(mine, theirs, lambda run: run.seconds)
    return Row(
        case=CASE,
        contestant=name,
        rounds=len(theirs),
        seconds=Spread.of([run.seconds for run in theirs]),
        cpu_seconds=Spread.of([run.cpu_seconds for run in theirs]),
        share_of_ours=share,
        cpu_share_of_ours=ratios(mine, theirs, lambda run: run.cpu_seconds),
        goals=[] if name == OURS else [Goal.first_step(share.median)],
    )


def first_step(name: str, command: list[str], folder: Path) -> FirstStep:
    """Start a command, wait until it tells its first step, and end it."""
    surroundings = {
        **os.environ,
        # Records for machines, as in a pod, and no sentence that waits in a buffer.
        "FINETUNE_TERMINATION_LOG": str(folder / "termination"),
        "FINETUNE_SCRATCH": str(folder / "scratch-first"),
        "PYTHONUNBUFFERED": "1",
    }
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=surroundings,
        start_new_session=True,
    )
    told: list[str] = []
    try:
        for line in process.stdout or ():
            told.append(line)
            if found := _TOLD[name].search(line):
                wall = time.monotonic() - began
                return FirstStep(wall, cpu_seconds(process.pid), float(found[1]))
            if time.monotonic() - began > _LIMIT_SECONDS:
                break
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    raise SystemExit(f"{name} told of no step:\n{''.join(told)[-3000:]}")


def cpu_seconds(session: int) -> float:
    """CPU time of all processes of a session, those that have ended and were waited for included."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold spaces.
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            ticks += sum(int(each) for each in fields[11:15])
    return ticks / _TICKS
