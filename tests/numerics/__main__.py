"""`make numerics`: measure the errors of every operation, and write docs/reference/numerics.md.

    python -P -m numerics [--device cuda]

On a CPU the kernels run in Triton's interpreter. With `cuda` they run on the GPU, and the page is printed
instead of written. Ends with 1 when an error of ours passes PyTorch's by more than the tests allow.
"""

import argparse
import os
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/reference/numerics.md"


def main() -> int:
    """Measure; write or print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
        import support.interpreter  # noqa: F401 - its import switches it on
    from numerics.errors import measured
    from numerics.page import page

    found = measured(device)
    text = page(found, device)
    if device == "cpu":
        PAGE.write_text(text, "utf-8")
    else:
        print(text)
    worse = [each for each in found if not each.allowed]
    for each in worse:
        print(f"worse than PyTorch: {each}", file=sys.stderr)
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
