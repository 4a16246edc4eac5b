"""Rows of the benchmark, the table that is printed, and the file that keeps them."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch
from gpu_ops.chips import Chip, chip_of
from gpu_ops.work import Work

RESULTS = Path(__file__).parents[1] / "results/gpu_ops.json"
LIBRARIES = (
    *("torch", "triton", "transformers", "peft", "bitsandbytes"),
    *("liger_kernel", "flash_attn", "unsloth"),
)
# What is wanted of ours, where memory is the limit.
GOAL = 0.8


@dataclass(frozen=True)
class Row:
    """One contestant in one pass of one operation.

    Attributes:
        operation: Its name in `finetune_kernels.ops`.
        part: `forward` without gradients, or `both` with the backward pass.
        contestant: Who.
        microseconds: Least, median and largest; empty where it failed.
        achieved: GB/s or TFLOP/s of the least work, by the median.
        unit: Of `achieved`.
        share: Of the chip's limit; None where that is not known.
        peak_mib: Memory beyond the inputs; None on a CPU.
        difference: From eager PyTorch, relative, the largest of outputs and gradients.
        failed: Why there are no figures.
    """

    operation: str
    part: str
    contestant: str
    microseconds: tuple[float, ...] = ()
    achieved: float = 0.0
    unit: str = ""
    share: float | None = None
    peak_mib: float | None = None
    difference: float | None = None
    failed: str = ""


def figures(
    seconds: Sequence[float], least: Work, part: str, chip: Chip | None
) -> dict[str, object]:
    """The fields of a row that follow from times."""
    spread = tuple(round(found(seconds) * 1e6, 2) for found in (min, median, max))
    amount = least.forward if part == "forward" else least.both
    in_bytes = least.unit == "bytes"
    achieved = amount / median(seconds) / (1e9 if in_bytes else 1e12)
    limit = chip and (chip.bandwidth if in_bytes else chip.flops)
    return {
        "microseconds": spread,
        "achieved": round(achieved, 3),
        "unit": "GB/s" if in_bytes else "TFLOP/s",
        "share": round(achieved / limit, 3) if limit else None,
    }


def show(row: Row) -> None:
    """Print a line."""
    head = f"{row.operation:22}{row.part:9}{row.contestant:10}"
    if row.failed:
        print(f"{head}failed: {row.failed}", flush=True)
        return
    times = "".join(f"{each:12.1f}" for each in row.microseconds)
    share = f"{row.share:7.0%}" if row.share is not None else f"{'?':>7}"
    peak = f"{row.peak_mib:10.0f} MiB" if row.peak_mib is not None else ""
    print(f"{head}{times} us{row.achieved:11.2f} {row.unit:8}{share}{peak}{_goal(row)}", flush=True)


def _goal(row: Row) -> str:
    if row.contestant != "ours" or row.unit != "GB/s" or row.share is None:
        return ""
    return "  goal met" if row.share >= GOAL else f"  goal of {GOAL:.0%} MISSED"


def keep(rows: Sequence[Row], path: Path, rounds: int, sizes: object) -> None:
    """Write the file."""
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "versions": versions(),
        "dtype": "bfloat16",
        "rounds": rounds,
        "sizes": asdict(sizes),  # type: ignore[call-overload]
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def hardware() -> dict[str, object]:
    """The GPU and its limits."""
    if not torch.cuda.is_available():
        return {"device": "CPU in Triton's interpreter: a rehearsal, no measurement"}
    properties = torch.cuda.get_device_properties(0)
    chip = chip_of(properties.name)
    return {
        "device": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "limits": asdict(chip) if chip else None,
    }


def versions() -> dict[str, str | None]:
    """Of the libraries that matter; None for those that are not installed."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
