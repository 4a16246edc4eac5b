"""`make matrix`: run every cell of docs/reference/compatibility.md, compare, keep the record.

`make matrix ARGS="--only PPO --every 7"` runs a part. Exit code 1 if a cell
contradicts the table.
"""

import argparse
import sys
import time

from finetune_api.compatibility_page import cells
from finetune_api.v1alpha1.compatibility import verdict
from invariant.matrix import record
from invariant.matrix.runner import Outcome, run


def main() -> int:
    """Run, print, compare."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("--only", default="", help="words that the cell's name must contain")
    parser.add_argument("--every", type=int, default=1, help="run each n-th cell")
    parser.add_argument("--processes", type=int, default=2, help="processes side by side")
    parser.add_argument("--verbose", action="store_true", help="print every cell")
    given = parser.parse_args()
    chosen = [
        cell for cell in cells() if set(given.only.split()) <= set(record.name_of(cell).split())
    ]
    chosen = chosen[:: given.every]
    began = time.monotonic()
    outcomes = []
    for outcome in run(chosen, given.processes):
        outcomes.append(outcome)
        tell(outcome, verbose=given.verbose)
    minutes, works = (time.monotonic() - began) / 60, sum(o.works for o in outcomes)
    wrong = sum(record.contradiction(o.cell, works=o.works) is not None for o in outcomes)
    print(f"{len(outcomes)} cells in {minutes:.1f} min: {works} work, {wrong} contradict the table")
    record.write(outcomes)
    return 1 if wrong else 0


def tell(outcome: Outcome, *, verbose: bool) -> None:
    """Print what contradicts the table."""
    contradiction = record.contradiction(outcome.cell, works=outcome.works)
    if contradiction or verbose:
        name, why = record.name_of(outcome.cell), contradiction or verdict(outcome.cell) or ""
        print(f"{name}: {outcome.ending} [{why}] {outcome.seconds:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
