"""`make kernels`: compile every kernel for every chip, and write the table or compare it (`--check`).

    python -P -m finetune_kernels.ahead_of_time [--check] [--only NAME]

Ends with 1 when a kernel spills, does not fit on a chip, or (`--check`) differs from the committed table.
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

from finetune_kernels.ahead_of_time import table
from finetune_kernels.ahead_of_time.catalogue import launches
from finetune_kernels.ahead_of_time.chips import CHIPS
from finetune_kernels.ahead_of_time.compilation import compile_all

_DOCS = Path(__file__).parents[3] / "docs/reference"
RESOURCES, PAGE = _DOCS / "kernel_resources.json", _DOCS / "kernels.md"


def main() -> int:
    """Compile; write or compare; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument(
        "--only", default="", help="kernels with this in their name; writes nothing"
    )
    arguments = parser.parse_args()
    wanted = [x for x in launches() if arguments.only in x.name]
    found = compile_all(wanted, CHIPS)
    rows = table.rows(wanted, found)
    problems = table.excesses(wanted, found)
    if arguments.only:
        sys.stdout.write(table.as_json(rows))
    elif arguments.check:
        problems += table.drift(json.loads(RESOURCES.read_text()), rows) + _stale_page()
    else:
        RESOURCES.write_text(table.as_json(rows))
        PAGE.write_text(rendered())
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


def rendered() -> str:
    """The page, of the committed figures."""
    return table.page(json.loads(RESOURCES.read_text()))


def _stale_page() -> list[str]:
    fresh = PAGE.exists() and PAGE.read_text() == rendered()
    return [] if fresh else [f"{PAGE.name} is not what the figures give: run `make kernels`"]


if __name__ == "__main__":
    sys.exit(main())
