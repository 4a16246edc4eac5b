"""`make chaos`: one installation, one job, many kills.

    make chaos ARGS="--kills 20 --seed 1"

Prints every kill and whether the adapter of the disturbed run has the bytes of the undisturbed one;
exits with 1 if it has not. A part of it runs in `tests/e2e/test_chaos.py`.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chaos.course import disturbed, undisturbed
from chaos.faults import FAULTS, Target
from support.stack import BUCKET, FAST, Stack
from support.tenant import Tenant
from support.tiny_models import pairs, tiny_llama, write_jsonl


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        with Stack.start(folder / "stack", nodes=2) as stack:
            tenant = _installed(stack, folder)
            return _run(tenant, folder, _series(given.faults, given.kills), given.seed)


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


def _run(tenant: Tenant, folder: Path, faults: Sequence[str], seed: int) -> int:
    reference = undisturbed(tenant, "calm", folder / "calm")
    moments = random.Random(seed)  # noqa: S311 - moments, not secrets
    target = Target(tenant, "disturbed", moments, FAST)
    result = disturbed(target, faults, reference, folder / "disturbed")
    attempts = result.attempts[-1]["number"]
    verdict = "the same bytes" if result.same else "OTHER WEIGHTS"
    print(
        f"{len(result.kills)} kills, {attempts} attempts, {result.seconds} s: {verdict}; "
        f"{len(result.differing)} losses differ"
    )
    return 0 if result.same and not result.differing else 1


if __name__ == "__main__":
    sys.exit(main())
