"""One process, and two over gloo, get the answers that all agree on."""

import subprocess
import sys

from finetune_trainer import processes

TWO = """
import torch.distributed as dist
from finetune_trainer import processes
dist.init_process_group("gloo")
rank = processes.rank()
assert processes.world_size() == 2 and processes.local_rank() == rank
assert processes.is_main() == (rank == 0)
assert processes.gather_objects({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
assert processes.any_of(rank == 1) and not processes.any_of(False)
assert processes.total(rank + 0.5, 1) == (2.0, 2.0)
assert processes.gather_counts(rank, 7) == [[0, 7], [1, 7]]
processes.barrier()
dist.destroy_process_group()
print("agreed")
"""


def test_one_process_needs_no_group_and_no_torch() -> None:
    code = (
        "import sys; from finetune_trainer import processes as p; p.barrier();"
        "assert p.gather_objects(3) == [3] and p.any_of(True) and not p.any_of(False);"
        "assert p.total(2, 0.5) == (2, 0.5) and p.gather_counts(1, 2) == [[1, 2]];"
        "assert p.is_main() and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (processes.rank(), processes.world_size(), processes.local_rank()) == (0, 1, 0)


def test_two_processes_agree() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "--no-python", sys.executable, "-c", TWO]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("agreed") == 2
