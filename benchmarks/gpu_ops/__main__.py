"""`make bench-gpu`: each operation against eager PyTorch, torch.compile and Liger, on one GPU in one run.

    python -P -m gpu_ops [--rehearse] [--only NAME] [--rows N] [--rounds N] [--output FILE]

Needs our kernels, PyTorch and a GPU; `--rehearse` runs tiny sizes on a CPU in Triton's interpreter, which
proves that this script runs and measures nothing. Ends with 1 when one of ours failed or is wrong.
"""

import argparse
import os
import sys
from pathlib import Path

ROUNDS = 50
# bfloat16 sums differ by the order of their terms; a wrong kernel differs by far more.
DIFFERENCE = 0.05


def main() -> int:
    """Measure, print, keep; the exit status."""
    arguments = _arguments()
    if arguments.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
        import support.interpreter  # noqa: F401 - its import switches it on
    import torch
    from gpu_ops import results
    from gpu_ops.measure import Course, measured, sizes_of

    device = "cpu" if arguments.rehearse else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("needs a GPU; `--rehearse` runs the script without one", file=sys.stderr)
        return 2
    rounds = arguments.rounds or (1 if arguments.rehearse else ROUNDS)
    course = Course(device, sizes_of(device, arguments.rows), rounds, arguments.only)
    rows = []
    for row in measured(course):
        results.show(row)
        rows.append(row)
    output = arguments.output or (None if arguments.rehearse else results.RESULTS)
    if output:
        results.keep(rows, output, rounds, course.sizes)
    ours = [row for row in rows if row.contestant == "ours"]
    return int(any(row.failed or (row.difference or 0) > DIFFERENCE for row in ours))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--only", default="", help="operations with this in their name")
    parser.add_argument("--rows", type=int, default=0, help="tokens; fewer for a small GPU")
    parser.add_argument("--rounds", type=int, default=0, help=f"{ROUNDS} by default")
    parser.add_argument("--output", type=Path, help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
