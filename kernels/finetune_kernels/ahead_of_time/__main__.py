"""`make kernels`: compile every kernel for every chip, and write the table or compare it (`--check`).

    python -P -m finetune_kernels.ahead_of_time [--check] [--only NAME]

Ends with 1 when a kernel spills, does not fit on a chip, or (`--check`) is not that of the committed table.
`--check` compiles the first row of each kernel; of the others it compares what figures follow from.
"""

import argparse
import json
import os
import sys
from pathlib import Path

# The interpreter would take the place of the compiler. Its default of fused multiply and add changes with
# Triton 3.10; jobs are measured and compiled with it.
os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import triton

from finetune_kernels.ahead_of_time import table
from finetune_kernels.ahead_of_time.catalogue import entries, representative
from finetune_kernels.ahead_of_time.compilation import compile_all
from finetune_kernels.ahead_of_time.launches import Entry

_DOCS = Path(__file__).parents[3] / "docs/reference"
RESOURCES, PAGE = _DOCS / "kernel_resources.json", _DOCS / "kernels.md"


def main() -> int:
    """Compile; write or compare; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--only", default="", help="rows with this in their names; writes nothing")
    arguments = parser.parse_args()
    every = entries()
    if arguments.check:
        problems = _checked(every)
    else:
        wanted = [entry for entry in every if arguments.only in " ".join(entry.key)]
        problems = _written(wanted, to_files=not arguments.only)
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


def _written(wanted: list[Entry], *, to_files: bool) -> list[str]:
    rows = table.rows(wanted, compile_all(wanted))
    if to_files:
        RESOURCES.write_text(table.as_json(rows))
        PAGE.write_text(rendered())
    else:
        sys.stdout.write(table.as_json(rows))
    return table.excesses(rows)


def _checked(every: list[Entry]) -> list[str]:
    committed = json.loads(RESOURCES.read_text())
    problems = table.excesses(committed["kernels"]) + _stale_page()
    if committed["triton"] != triton.__version__:
        return problems  # another compiler gives other figures
    some = representative(every)
    now = table.rows(some, compile_all(some))
    return problems + table.stale(committed, every) + table.drift(committed, now)


def rendered() -> str:
    """The page, of the committed figures."""
    return table.page(json.loads(RESOURCES.read_text()))


def _stale_page() -> list[str]:
    fresh = PAGE.exists() and PAGE.read_text() == rendered()
    return [] if fresh else [f"{PAGE.name} is not what the figures give: run `make kernels`"]


if __name__ == "__main__":
    sys.exit(main())
