"""Runs manifests one after the other in one process of several, so that libraries are imported once."""

import os
import sys
from pathlib import Path

from finetune_trainer.__main__ import run_file


def main() -> int:
    """Runs the manifests that are named; 1 if one of them fails."""
    failed = 0
    for name in sys.argv[1:]:
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        report = run_file(Path(name), os.environ, sys.stdout)
        path = Path(name).with_suffix(f".{os.environ['RANK']}.json")
        path.write_text(report.to_message(), "utf-8")
        failed |= report.outcome != "Complete"
    return failed


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main())
