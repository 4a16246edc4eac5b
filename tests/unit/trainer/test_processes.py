"""One process gets the answers that several agree on; it needs no group and no torch."""

import subprocess
import sys

from finetune_trainer import processes


def test_one_process_needs_no_group_and_no_torch() -> None:
    code = (
        "import sys; from finetune_trainer import processes as p; p.barrier();"
        "assert p.gather_objects(3) == [3] and p.any_of(True) and not p.any_of(False);"
        "assert p.total(2, 0.5) == (2, 0.5) and p.gather_counts(1, 2) == [[1, 2]];"
        "assert p.is_main() and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (processes.rank(), processes.world_size(), processes.local_rank()) == (0, 1, 0)
