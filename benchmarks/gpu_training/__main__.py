"""`make bench-gpu-training`: tokens a second, memory and longest context of whole steps on one GPU.

    python -P -m gpu_training [--rehearse] [--shapes 1B 8B] [--methods …] [--lengths …]
        [--rounds N] [--limits …]

Models of real shapes with random weights, LoRA rank 16, recomputed activations, one row (DPO: one pair):
`finetune_kernels.patch` with our fused losses against stock PEFT with eager attention, with SDPA and with
flash-attn, with Liger's layers and losses, and Unsloth, where these are installed. The trainer's own fast
paths (shared prompts, batches without padding) are not in here; `make bench-trainer` has them.
`--rehearse` runs a tiny model on a CPU in Triton's interpreter: it proves that this runs, and that all
losses are equal, and measures nothing.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from gpu_training.libraries import NEEDS, missing

RESULTS = Path(__file__).parents[1] / "results/gpu_training.json"
ROUNDS, STEPS = 3, 5
# bfloat16 losses of two ways to compute the same.
TOLERANCE = 0.05

Rows = list[dict[str, Any]]
_NOTHING: dict[str, Any] = {"seconds": [], "tokens": 0, "peak_mib": 0.0, "losses": [], "longest": 0}


def main() -> int:
    """Measure, print, keep; 1 when losses differ or one of ours failed."""
    arguments = _arguments()
    if arguments.rehearse:
        return _rehearsed(arguments.methods)
    import torch

    if not torch.cuda.is_available():
        print("needs a GPU; `--rehearse` runs the script without one", file=sys.stderr)
        return 2
    from gpu_ops.results import hardware, versions

    rows: Rows = []
    for shape in arguments.shapes:
        for method in arguments.methods:
            for length in arguments.lengths:
                rows += _speeds(shape, method, length, arguments.rounds)
            rows += _longest(shape, method, arguments.limits)
            # Kept after every part: a machine may be lent for minutes only.
            kept = {"hardware": hardware(), "versions": versions(), "rows": rows}
            RESULTS.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    return int(any(row["failed"] for row in rows if row["contestant"] == "ours"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on a CPU")
    parser.add_argument("--shapes", nargs="+", default=["1B", "8B"])
    parser.add_argument("--methods", nargs="+", default=["LoRA", "QLoRA", "DPO"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="processes of a contestant")
    parser.add_argument("--limits", nargs="*", type=float, default=[16, 24, 80], help="GiB")
    return parser.parse_args()


def _speeds(shape: str, method: str, length: int, rounds: int) -> Rows:
    """A row for each contestant, whose processes take turns."""
    base = {"shape": shape, "method": method, "length": length, "steps": STEPS}
    found: dict[str, Rows] = {who: [] for who in NEEDS}
    for _ in range(rounds):
        for who, outcomes in found.items():
            outcomes.append(_in_a_process({**base, "contestant": who}))
    rows = [_speed({**base, "contestant": who}, outcomes) for who, outcomes in found.items()]
    for row in rows:
        print(json.dumps(row), flush=True)
    return rows


def _speed(row: dict[str, Any], outcomes: Rows) -> dict[str, Any]:
    failed = next((each["failed"] for each in outcomes if each["failed"]), "")
    speeds = [each["tokens"] / s for each in outcomes for s in each["seconds"] if not failed]
    spread = [round(f(speeds), 1) for f in (min, median, max)] if speeds else []
    peak = max((each["peak_mib"] for each in outcomes), default=0)
    losses = outcomes[0]["losses"]
    return {
        **row,
        "tokens_per_second": spread,
        "peak_mib": peak,
        "losses": losses,
        "failed": failed,
    }


def _longest(shape: str, method: str, limits: list[float]) -> Rows:
    """The longest power of two that each contestant trains within each limit."""
    rows = []
    for limit in limits:
        for who in NEEDS:
            run = {"shape": shape, "method": method, "contestant": who, "length": 1024}
            run |= {"steps": 1, "limit_gib": limit}
            outcome = _in_a_process(run)
            rows.append({**run, "longest": outcome["longest"], "failed": outcome["failed"]})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _in_a_process(run: dict[str, Any]) -> dict[str, Any]:
    absent = missing(run["contestant"])
    if absent:
        return {**_NOTHING, "failed": absent}
    command = [sys.executable, "-P", "-m", "gpu_training.worker", json.dumps(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode == 0:
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return outcome
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {**_NOTHING, "failed": last[:200]}


def _rehearsed(methods: list[str]) -> int:
    os.environ["TRITON_INTERPRET"] = "1"
    from gpu_training.worker import Run, work

    import support.interpreter  # noqa: F401 - its import switches it on

    different = False
    for method in methods:
        losses = []
        for who in ("sdpa", "eager", "ours"):
            outcome = work(Run("rehearsal", method, who, 6, 1), "cpu")
            losses.append(outcome.losses)
            print(json.dumps({"method": method, "contestant": who, **asdict(outcome)}), flush=True)
        pairs = [zip(losses[0], each, strict=True) for each in losses[1:]]
        different |= any(abs(a - b) > TOLERANCE * abs(a) for pair in pairs for a, b in pair)
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
