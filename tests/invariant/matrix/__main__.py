"""`make matrix`: run every cell of docs/reference/compatibility.md, compare, keep the record.

`make matrix ARGS="--only PPO --every 7"` runs a part and keeps nothing. Exit code 1 if a cell
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
    outcomes = run(chosen, given.processes)
    wrong = report(outcomes, verbose=given.verbose)
    minutes, works = (time.monotonic() - began) / 60, sum(o.works for o in outcomes)
    print(f"{len(outcomes)} cells in {minutes:.1f} min: {works} work, {wrong} contradict the table")
    if len(chosen) == len(cells()):
        record.write(outcomes)
    return 1 if wrong else 0


def report(outcomes: list[Outcome], *, verbose: bool) -> int:
    """Print what contradicts the table; returns how many cells do."""
    wrong = 0
    for outcome in outcomes:
        contradiction = record.contradiction(outcome.cell, works=outcome.works)
        wrong += contradiction is not None
        if contradiction or verbose:
            name, refusal = record.name_of(outcome.cell), verdict(outcome.cell)
            print(
                f"{name}: {outcome.ending} [{contradiction or refusal or ''}] {outcome.seconds:.1f} s"
            )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
