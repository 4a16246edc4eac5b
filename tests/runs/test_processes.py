"""Two processes over gloo get the answers that both agree on."""

import subprocess
import sys

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


def test_two_processes_agree() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "--no-python", sys.executable, "-c", TWO]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("agreed") == 2
