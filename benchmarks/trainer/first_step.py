"""Time to the first step: `finetune-trainer run` against `trl sft`, from the start of the process.

    PYTHONPATH=tests:benchmarks python -P -m trainer.first_step --rounds 3

Each is the command that a user types, with its own imports, its own reading of files and its own checks; both
train LoRA on the same rows, all of which stand in the first step, so that the losses of that step must be
equal whatever the order. Contestants take turns. What a command tells of its first step ends its time; the
CPU time is that of all processes that it started. Writes `benchmarks/results/first_step.json`.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from support.definition import ROOT
from trainer import sft
from trainer.case import OURS
from trainer.results import Spread, circumstances
from trainer.workplace import Workplace

RESULTS = ROOT / "benchmarks/results/first_step.json"
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
class Compared:
    """Figures of several runs of one contestant.

    Attributes:
        seconds: By the clock.
        cpu_seconds: Of all its processes.
        of_ours: Our CPU seconds over this one's, round by round.
    """

    seconds: Spread
    cpu_seconds: Spread
    of_ours: Spread


class OneStep(Workplace):
    """A workplace whose rows all stand in the first step, which is the last."""

    @property
    def rows(self) -> int:
        """Rows of the data."""
        return self.batch


def compare(place: Workplace, rounds: int) -> dict[str, Compared]:
    """Run both in turn, and see that they train alike.

    Args:
        place: Where they read and write.
        rounds: Runs of each.
    """
    # With one step in all, it is told at once by both.
    place = OneStep(place.folder, 1, place.batch)
    own = [sys.executable, "-P", "-m", "finetune_trainer", "run", str(sft.job(place))]
    commands = {OURS: own, STOCK: sft.command(place)}
    runs: dict[str, list[FirstStep]] = {name: [] for name in commands}
    for turn in range(rounds):
        for name in list(commands)[:: 1 if turn % 2 == 0 else -1]:
            runs[name].append(first_step(name, commands[name], place.folder))
        mine, theirs = runs[OURS][-1].loss, runs[STOCK][-1].loss
        if abs(mine - theirs) > _TOLERANCE * mine:
            raise SystemExit(f"not the same first step: losses {mine} and {theirs}")
    return {name: _compared(runs[OURS], found) for name, found in runs.items()}


def _compared(mine: list[FirstStep], theirs: list[FirstStep]) -> Compared:
    pairs = zip(mine, theirs, strict=True)
    return Compared(
        Spread.of([run.seconds for run in theirs]),
        Spread.of([run.cpu_seconds for run in theirs]),
        Spread.of([a.cpu_seconds / b.cpu_seconds for a, b in pairs]),
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


def main() -> int:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder), 1, given.batch)
        found = compare(place, given.rounds)
        for name, figures in found.items():
            print(f"{name:10} {figures}")
        told = {name: asdict(figures) for name, figures in found.items()}
        kept = {**circumstances(place), "rounds": given.rounds, "contestants": told}
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
