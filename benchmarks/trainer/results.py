"""The table of the benchmark, and the file that keeps it."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from support.definition import ROOT
from trainer.case import OURS, Case
from trainer.measured import Measured
from trainer.workplace import Workplace

RESULTS = ROOT / "benchmarks/results/trainer.json"
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate")
MEMORY_SHARE = 0.7


@dataclass(frozen=True)
class Spread:
    """Figures of several runs."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one."""
        return cls(*(round(found(values), 3) for found in (min, median, max)))


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        case: The method.
        contestant: Who.
        tokens: Real tokens of a run.
        tokens_per_cpu_second: Real tokens by CPU time, all threads together.
        tokens_per_second: The same by the clock.
        peak_mib: Largest resident size of its process.
        first_step_seconds: From the start of the process; None where it was not taken.
        first_step_cpu_seconds: The same by CPU time, of the process that trained.
        speed_of_ours: Our tokens a CPU second over this one's, run by run in the same round.
        memory_of_ours: Our peak over this one's.
        losses: Of the last run.
        goal: What is wanted of ours against this one, and whether it is met.
    """

    case: str
    contestant: str
    tokens: int
    tokens_per_cpu_second: Spread
    tokens_per_second: Spread
    peak_mib: Spread
    first_step_seconds: Spread | None
    first_step_cpu_seconds: Spread
    speed_of_ours: Spread
    memory_of_ours: Spread
    losses: list[float]
    goal: str


def compared(case: Case, runs: dict[str, list[Measured]]) -> list[Row]:
    """A row for each contestant."""
    return [_row(case, name, runs) for name in runs]


def _row(case: Case, name: str, runs: dict[str, list[Measured]]) -> Row:
    mine, theirs = runs[OURS], runs[name]
    firsts = [run.first_step for run in theirs if run.first_step]
    speed = _ratios(mine, theirs, lambda run: run.tokens_per_cpu_second)
    memory = _ratios(mine, theirs, lambda run: run.peak)
    return Row(
        case.name,
        name,
        theirs[-1].tokens[-1],
        Spread.of([run.tokens_per_cpu_second for run in theirs]),
        Spread.of([run.tokens_per_second for run in theirs]),
        Spread.of([run.peak / 2**20 for run in theirs]),
        Spread.of(firsts) if firsts else None,
        Spread.of([run.work[0] for run in theirs]),
        speed,
        memory,
        theirs[-1].losses,
        _goal(case, name, speed, memory),
    )


def _ratios(
    mine: Sequence[Measured], theirs: Sequence[Measured], figure: Callable[[Measured], float]
) -> Spread:
    return Spread.of([figure(a) / figure(b) for a, b in zip(mine, theirs, strict=True)])


def _goal(case: Case, name: str, speed: Spread, memory: Spread) -> str:
    if name == OURS:
        return ""
    wanted = 1.0 if name in case.best else case.speedup
    parts = [
        f"speed >= {wanted}: {_met(speed.median >= wanted)}",
        f"memory <= {MEMORY_SHARE}: {_met(memory.median <= MEMORY_SHARE)}",
    ]
    return "; ".join(parts)


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    head = f"{'case':6}{'contestant':50}{'per CPU s':>10}{'per s':>8}{'peak MiB':>10}{'first s':>9}"
    print(f"{head}{'ours x':>8}{'memory':>8}  goal")
    for row in rows:
        first = f"{row.first_step_seconds.median:9.1f}" if row.first_step_seconds else " " * 9
        figures = f"{row.tokens_per_cpu_second.median:10.1f}{row.tokens_per_second.median:8.1f}"
        figures += f"{row.peak_mib.median:10.0f}{first}"
        ratios = f"{row.speed_of_ours.median:8.2f}{row.memory_of_ours.median:8.2f}"
        print(f"{row.case:6}{row.contestant:50}{figures}{ratios}  {row.goal}", flush=True)


def keep(rows: Sequence[Row], place: Workplace) -> None:
    """Write the file; rows of other cases stay as they are, with their own date."""
    cases = {row.case for row in rows}
    old = json.loads(RESULTS.read_text("utf-8"))["cases"] if RESULTS.exists() else {}
    for case in sorted(cases):
        own = [asdict(row) for row in rows if row.case == case]
        old[case] = {**circumstances(place), "limits": _limits(old, case), "rows": own}
    RESULTS.write_text(json.dumps({"cases": old}, indent=2) + "\n", "utf-8")


def _limits(old: dict[str, dict[str, object]], case: str) -> object:
    # Written by hand after profiling: what limits a row below its goal, and the next idea.
    return old.get(case, {}).get("limits", [])


def circumstances(place: Workplace) -> dict[str, object]:
    """Machine, versions and sizes, to be kept beside figures."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, no GPU",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "model": "SmolLM2-135M-Instruct",
        "steps": place.steps,
        "rowsAStep": place.batch,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((each.partition(": ")[2] for each in lines if each.startswith("model name")), "")
