"""The rows of the benchmark, and the file that keeps them."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from support.definition import ROOT
from trainer import first_step
from trainer.case import OURS, Case
from trainer.figures import Goal, Spread, ratios
from trainer.measured import Measured

RESULTS = ROOT / "benchmarks/results/trainer.json"
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate")


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        case: The method.
        contestant: Who.
        rounds: Runs.
        steps: Of a run; all but the first count for speed.
        rows_a_step: Rows, pairs or prompts.
        tokens: Real tokens of a run.
        tokens_per_cpu_second: Real tokens by CPU time, all threads together.
        tokens_per_second: The same by the clock.
        peak_mib: Largest resident size of its process.
        peak_before_training_mib: The same until the first step began.
        speed_of_ours: Our tokens a second by the clock over this one's, run by run in the same round.
        cpu_speed_of_ours: The same by CPU time.
        memory_of_ours: Our peak over this one's.
        losses: Of the last run.
        goals: What is wanted of ours against this one, and whether it is met.
    """

    case: str
    contestant: str
    rounds: int
    steps: int
    rows_a_step: int
    tokens: int
    tokens_per_cpu_second: Spread
    tokens_per_second: Spread
    peak_mib: Spread
    peak_before_training_mib: Spread
    speed_of_ours: Spread
    cpu_speed_of_ours: Spread
    memory_of_ours: Spread
    losses: list[float]
    goals: list[Goal]


def compared(case: Case, runs: Mapping[str, Sequence[Measured]]) -> list[Row]:
    """A row for each contestant."""
    return [_row(case, name, runs[OURS], own) for name, own in runs.items()]


def _row(case: Case, name: str, mine: Sequence[Measured], theirs: Sequence[Measured]) -> Row:
    speed = ratios(mine, theirs, lambda run: run.tokens_per_second)
    memory = ratios(mine, theirs, lambda run: run.peak)
    goals = [] if name == OURS else [Goal.speed(case.speeds[name], speed.median)]
    return Row(
        case=case.name,
        contestant=name,
        rounds=len(theirs),
        steps=len(theirs[-1].losses),
        rows_a_step=case.batch,
        tokens=theirs[-1].tokens[-1],
        tokens_per_cpu_second=Spread.of([run.tokens_per_cpu_second for run in theirs]),
        tokens_per_second=Spread.of([run.tokens_per_second for run in theirs]),
        peak_mib=Spread.of([run.peak / 2**20 for run in theirs]),
        peak_before_training_mib=Spread.of([run.residents[0] / 2**20 for run in theirs]),
        speed_of_ours=speed,
        cpu_speed_of_ours=ratios(mine, theirs, lambda run: run.tokens_per_cpu_second),
        memory_of_ours=memory,
        losses=theirs[-1].losses,
        goals=[*goals, Goal.memory(memory.median)] if goals else [],
    )


def show(rows: Sequence[Row | first_step.Row]) -> None:
    """Print the table."""
    print(f"{'case':15}{'contestant':50}{'per s':>9}{'per CPU s':>10}{'MiB':>7}{'ours':>7}  goals")
    for row in rows:
        if isinstance(row, Row):
            figures = f"{row.tokens_per_second.median:9.1f}{row.tokens_per_cpu_second.median:10.1f}"
            figures += f"{row.peak_mib.median:7.0f}{row.speed_of_ours.median:7.2f}"
        else:
            figures = f"{row.seconds.median:7.1f} s{row.cpu_seconds.median:8.1f} s{'':7}"
            figures += f"{row.share_of_ours.median:7.2f}"
        goals = "; ".join(map(str, row.goals))
        print(f"{row.case:15}{row.contestant:50}{figures}  {goals}", flush=True)


def of(
    rows: Sequence[Row | first_step.Row], profiles: Mapping[str, Any], notes: Mapping[str, str]
) -> dict[str, Any]:
    """What the result file holds.

    Args:
        rows: Of all cases.
        profiles: Of ours, by case.
        notes: What a reader must know, by case.
    """
    return {
        **_circumstances(),
        "notes": dict(notes),
        "rows": [asdict(row) for row in rows if isinstance(row, Row)],
        "firstStep": [asdict(row) for row in rows if isinstance(row, first_step.Row)],
        "profiles": dict(profiles),
    }


def _circumstances() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, no GPU",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "model": "SmolLM2-135M-Instruct",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((each.partition(": ")[2] for each in lines if each.startswith("model name")), "")
