"""Measure every operation, one after the other; a contestant that fails has a row that says why."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from gpu_ops.chips import chip_of
from gpu_ops.contestants import NAMES, contestants
from gpu_ops.results import Row, figures
from gpu_ops.timing import Call, both, forward, in_turn, peak_bytes
from gpu_ops.work import work
from torch import Tensor

from support.kernel_cases import CASES, SMALL, Place, Problem, Sizes
from support.kernel_truth import Operation, run

# One layer of an 8B model and four rows of 2048 tokens.
LAYER = Sizes(8192, 4096, 14336, 128256, 32, 8, 128, 16, 4)


@dataclass(frozen=True)
class Sound:
    """A contestant that runs, and its largest relative difference from eager PyTorch."""

    operation: Operation
    difference: float | None


@dataclass(frozen=True)
class Course:
    """How to measure.

    Attributes:
        device: `cuda`, or `cpu` for a rehearsal.
        sizes: Of the problems.
        rounds: Times that every contestant is timed.
        only: Part of the names of the operations to measure.
    """

    device: str
    sizes: Sizes
    rounds: int
    only: str = ""


def sizes_of(device: str, rows: int) -> Sizes:
    """A layer of a real model with this many rows (0 for its own), or tiny."""
    if device == "cpu":
        return SMALL
    return replace(LAYER, rows=rows) if rows else LAYER


def measured(course: Course) -> Iterator[Row]:
    """Rows of the operations, one after the other."""
    place = Place(torch.bfloat16, course.device)
    for name in (each for each in NAMES if course.only in each):
        problem = CASES[name](course.sizes, place)
        sound, failed = checked(contestants(name, problem, course.sizes, place), problem)
        yield from (Row(name, "both", who, failed=why) for who, why in failed.items())
        for part in parts(name, course.sizes):
            yield from _timed(name, part, problem, sound, course)
        torch.cuda.empty_cache()


def parts(name: str, sizes: Sizes) -> tuple[str, ...]:
    """`both` only where there are gradients."""
    return ("forward", "both") if work(name, sizes).both else ("forward",)


def checked(
    found: dict[str, Operation], problem: Problem
) -> tuple[dict[str, Sound], dict[str, str]]:
    """Contestants that run, and why others do not; eager PyTorch comes first."""
    sound: dict[str, Sound] = {}
    failed: dict[str, str] = {}
    expected: list[Tensor] = []
    for who, operation in found.items():
        try:
            got = run(operation, problem.inputs)
        # Whatever a foreign kernel raises on a new GPU; compilers and lack of memory raise RuntimeError.
        except (RuntimeError, ValueError, TypeError, AssertionError) as raised:
            failed[who] = f"{type(raised).__name__}: {str(raised)[:200]}"
            continue
        expected = got if who == "eager" else expected
        sound[who] = Sound(operation, _difference(got, expected))
    return sound, failed


def _difference(got: list[Tensor], expected: list[Tensor]) -> float | None:
    if not expected:  # eager PyTorch had too little memory
        return None
    pairs = [(a.float(), b.float()) for a, b in zip(got, expected, strict=True)]
    return round(max(((a - b).norm() / b.norm()).item() for a, b in pairs), 6)


def _timed(
    name: str, part: str, problem: Problem, sound: dict[str, Sound], course: Course
) -> Iterator[Row]:
    make = forward if part == "forward" else both
    # Copies, because a contestant may write over its inputs.
    calls: dict[str, Call] = {
        who: make(entry.operation, [x.clone() for x in problem.inputs])
        for who, entry in sound.items()
    }
    peaks = {who: peak_bytes(call, course.device) for who, call in calls.items()}
    chip = chip_of(torch.cuda.get_device_name()) if course.device == "cuda" else None
    least = work(name, course.sizes)
    for who, seconds in in_turn(calls, course.rounds, course.device).items():
        peak = peaks[who]
        yield Row(
            *(name, part, who),
            **figures(seconds, least, part, chip),
            peak_mib=None if peak is None else round(peak / 2**20, 1),
            difference=sound[who].difference,
        )
