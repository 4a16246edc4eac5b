"""`make chaos`: one installation, one job, many kills.

    make chaos ARGS="--kills 20 --seed 1"

The job trains on two pods of one process each. Prints every kill and whether the adapter of the disturbed
run has the bytes of the undisturbed one, and writes both to `benchmarks/results/chaos.json`; exits with 1
if it has not, or if the job was done before the last kill. A part of it runs in `tests/e2e/test_chaos.py`.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos.course import STEPS, Result, disturbed, job, undisturbed
from chaos.faults import FAULTS, Target
from support.definition import ROOT
from support.stack import BUCKET, FAST, Stack
from support.tenant import Tenant
from support.tiny_models import pairs, tiny_llama, write_jsonl

RESULTS = ROOT / "benchmarks/results/chaos.json"


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=2, help="pods of the job")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--record", type=Path, default=RESULTS, help="file for the result")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        with Stack.start(folder / "stack", nodes=2) as stack:
            tenant = _installed(stack, folder)
            faults = [each for each in given.faults if given.nodes > 1 or each != "one rank"]
            return _run(tenant, folder, _series(faults, given.kills), given)


def _installed(stack: Stack, folder: Path) -> Tenant:
    tiny_llama(folder / "inputs/models/tiny")
    write_jsonl(folder / "inputs/data/train.jsonl", pairs(64))
    write_jsonl(folder / "inputs/data/evaluation.jsonl", pairs(16, seed=1))
    stack.apply_definition()
    stack.install()
    stack.create_tenant("team")
    client = stack.s3.client()
    for path in sorted(path for path in (folder / "inputs").rglob("*") if path.is_file()):
        client.upload_file(str(path), BUCKET, str(path.relative_to(folder / "inputs")))
    stack.start_operator(FAST)
    return Tenant(stack, "team")


def _series(faults: Sequence[str], kills: int) -> list[str]:
    return [faults[number % len(faults)] for number in range(kills)]


def _run(tenant: Tenant, folder: Path, faults: Sequence[str], given: argparse.Namespace) -> int:
    wanted = job(given.nodes, given.steps)
    reference = undisturbed(tenant, "calm", folder / "calm", wanted)
    moments = random.Random(given.seed)  # noqa: S311 - moments, not secrets
    target = Target(tenant, "disturbed", moments, FAST, wanted)
    result = disturbed(target, faults, reference, folder / "disturbed")
    record = recorded(result, given)
    given.record.write_text(json.dumps(record, indent=2) + "\n")
    print(
        f"{len(result.kills)} kills, {record['attempts']} attempts, {result.seconds} s: "
        f"{'the same bytes' if result.same else 'OTHER WEIGHTS'}; {len(result.differing)} losses differ"
    )
    whole = len(result.kills) == len(faults)
    return 0 if whole and result.same and not result.differing else 1


def recorded(result: Result, given: argparse.Namespace) -> dict[str, Any]:
    """What is kept of a run."""
    back = result.recoveries() or [math.nan]
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), shared with other work",
        "processes": given.nodes,
        "seed": given.seed,
        "same": result.same,
        "differingLosses": len(result.differing),
        "attempts": result.attempts[-1]["number"],
        "seconds": result.seconds,
        "secondsFromKillToTraining": {
            "min": min(back), "median": statistics.median(back), "max": max(back), "of": len(back),
        },
        "kills": [asdict(each) for each in result.kills],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
