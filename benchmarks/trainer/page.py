"""`docs/reference/training-speed.md`, made from the result file alone; a unit test compares both.

Called by the benchmark after every round. Text that nothing can measure, the next idea for each goal that
is not met, is written by hand in `ideas`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from support.definition import ROOT
from trainer.figures import missed
from trainer.ideas import IDEAS, NONE_YET

PAGE = ROOT / "docs/reference/training-speed.md"

_HEAD = """\
# Training speed against the libraries

`make bench-trainer` writes this page from `benchmarks/results/trainer.json`. Ours and stock trainers train
SmolLM2-135M-Instruct with LoRA (rank 16, all linear layers) on the same rows in the same run, each in a
process of its own, in turn. Losses and norms of gradients are compared step by step, and who differs by more
than rounding is left out. The first step of a run does not count for speed. Libraries that these jobs do
not use are kept from all contestants, which lowers the peak of the stock ones too.

Figures are min / median / max over rounds. `Ours ×` is our speed over that of the row by the clock, round by
round; `memory` is our peak of resident memory over that of the row. Goals: SFT 1.5 × and DPO 1.8 × the
library's default settings (in Float32, with recomputed activations), nothing slower than its best settings,
at most 0.7 of its memory, and a first step no later than that of the library's command.
"""

_COLUMNS = (
    "| Contestant | Runs | Tokens/s | Tokens/CPU s | Peak MiB | Ours × | by CPU | memory | Goals |"
)


def written(result: Mapping[str, Any]) -> str:
    """The page of a result, as `results.of` returns it."""
    parts = [_HEAD, *_circumstances(result)]
    for case in dict.fromkeys(row["case"] for row in result["rows"]):
        parts += _case(case, result)
    parts += _first_step(result)
    parts += _limits(result)
    return "\n".join(parts)


def _circumstances(result: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    yield (
        f"Measured on {result['date']}: {result['machine']}, threads: {result['threads']}; "
        f"Python {result['python']}, {versions}.\n"
        "No GPU: Liger and flash attention need one and are no contestants.\n"
    )


def _case(case: str, result: Mapping[str, Any]) -> Iterator[str]:
    rows = [row for row in result["rows"] if row["case"] == case]
    first = rows[0]
    yield f"## {case}\n"
    if note := result["notes"].get(case):
        yield f"{note}\n"
    yield (
        f"{first['steps']} steps of {first['rows_a_step']} rows, {first['tokens']} tokens a run.\n"
    )
    yield _COLUMNS
    yield "|---" * _COLUMNS.count(" | ") + "|---|"
    yield from map(_row, rows)
    yield ""


def _row(row: Mapping[str, Any]) -> str:
    figures = [
        _spread(row["tokens_per_second"], 1),
        _spread(row["tokens_per_cpu_second"], 1),
        _spread(row["peak_mib"], 0),
    ]
    ratios = ["", "", ""]
    if row["goals"]:
        names = ("speed_of_ours", "cpu_speed_of_ours", "memory_of_ours")
        ratios = [_spread(row[name], 2) for name in names]
    goals = "; ".join(_goal(goal) for goal in row["goals"])
    cells = [row["contestant"], str(row["rounds"]), *figures, *ratios, goals]
    return f"| {' | '.join(cells)} |"


def _spread(spread: Mapping[str, float], digits: int) -> str:
    return " / ".join(f"{spread[name]:.{digits}f}" for name in ("min", "median", "max"))


def _goal(goal: Mapping[str, Any]) -> str:
    sign = "≥" if goal["kind"] == "speed" else "≤"
    said = "met" if goal["met"] else "**not met**"
    return f"{goal['kind']} {sign} {goal['wanted']:g}: {said}"


def _first_step(result: Mapping[str, Any]) -> Iterator[str]:
    if not result["firstStep"]:
        return
    yield "## First step\n"
    yield (
        "SFT from the start of the command until it tells the loss of its first step: imports, data and "
        "checks included, in seconds by the clock and of CPU time.\n"
    )
    yield "| Command | Runs | Seconds | CPU seconds | Ours / it | by CPU | Goal |"
    yield "|---|---|---|---|---|---|---|"
    for row in result["firstStep"]:
        names = ("share_of_ours", "cpu_share_of_ours")
        cells = [
            row["contestant"],
            str(row["rounds"]),
            *(_spread(row[name], 1) for name in ("seconds", "cpu_seconds")),
            *(_spread(row[name], 2) if row["goals"] else "" for name in names),
            "; ".join(map(_goal, row["goals"])),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _limits(result: Mapping[str, Any]) -> Iterator[str]:
    yield "## What limits ours\n"
    yield (
        "One step of ours under torch's profiler, in the same run: the operators that take most of its CPU "
        "time, and the MiB that they allocate and hand on. The peak before training is what imports, the "
        "model and the proofs of fast paths take.\n"
    )
    for case, profile in result["profiles"].items():
        row = next(row for row in result["rows"] if row["case"] == case)
        before = row["peak_before_training_mib"]["median"]
        peak = row["peak_mib"]["median"]
        yield f"- **{case}**: {_operators(profile['time'], '%')}."
        yield f"  Memory: {before:.0f} of {peak:.0f} MiB before the first step; in a step"
        yield f"  {_operators(profile['memory'], 'MiB')}."
    yield ""
    lacking = missed([*result["rows"], *result["firstStep"]])
    if not lacking:
        yield "Every goal is met.\n"
        return
    yield "Goals that are not met, and the next idea:\n"
    for case, contestant, kind in lacking:
        yield f"- {case}, {kind} against *{contestant}*: {IDEAS.get((case, kind), NONE_YET)}"
    yield ""


def _operators(found: Sequence[Mapping[str, Any]], unit: str) -> str:
    return ", ".join(f"`{each['operator']}` {each['value']:g} {unit}" for each in found)
