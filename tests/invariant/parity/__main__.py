"""`make parity`: compare every method, write docs/reference/parity.md, keep our curves.

`make parity ARGS="--only KTO"` compares a part and keeps nothing. Exit code 1 if a difference is too large.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from invariant.parity import curves, page
from invariant.parity.cases import CASES, SAME
from invariant.parity.compare import Parity, Split, parity, split
from invariant.parity.workplace import Workplace


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="make parity", description=__doc__)
    parser.add_argument("--only", default="", help="a word of the method's name")
    only = parser.parse_args().only
    chosen = [case for case in CASES if only in case.name.split() or not only]
    parities: list[Parity] = []
    splits: list[Split] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder))
        for case in chosen:
            parities.append(parity(case, place))
            again = split(case, place)
            splits += [again] if again else []
            print(in_words(parities[-1], again), flush=True)
    if not only:
        for found in parities:
            curves.store(found.case.name, found.curve)
        page.write(parities, splits)
    worst = [each.loss or 0.0 for each in parities] + [each.loss for each in splits]
    return 1 if max(worst) > SAME else 0


def in_words(found: Parity, splits: Split | None) -> str:
    """One line."""
    peer = "no peer" if found.loss is None else f"loss {found.loss:.1e}, gradient {found.norm:.1e}"
    if splits is None:
        return f"{found.case.name}: {peer}"
    again = f"loss {splits.loss:.1e}, gradient {splits.norm:.1e}, weights {splits.weight:.1e}"
    return f"{found.case.name}: {peer}; splits: {again}"


if __name__ == "__main__":
    sys.exit(main())
