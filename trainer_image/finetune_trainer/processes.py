"""Which of the training processes this one is, and what they tell each other.

Called by everything that must be done once (by rank 0) or agreed on by all. With one process every
question has its plain answer and torch is not imported. It starts no process and joins no group: that
is done by `launch` and by `distributed`.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

# Set for each process by torchrun, and by our launcher, which is torchrun's library.
RANK, WORLD_SIZE, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
_POLL_SECONDS = 0.1
Value = TypeVar("Value")


def rank() -> int:
    """This process's number among all, from 0."""
    return int(os.environ.get(RANK, "0")) if world_size() > 1 else 0


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get(WORLD_SIZE, "1"))


def local_rank() -> int:
    """This process's number among those of its pod, from 0."""
    return int(os.environ.get(LOCAL_RANK, "0")) if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that prints, writes, publishes and verifies: rank 0."""
    return rank() == 0


def any_of(flag: bool) -> bool:
    """Whether `flag` holds for at least one process. All must call this, and all get one answer."""
    return bool(total(float(flag))[0])


def barrier() -> None:
    """Wait until every process is here."""
    gather_objects(None)


def gather_objects(value: Value) -> list[Value]:
    """The values of all processes by rank, the same list for each. All must call this.

    Args:
        value: Small, and made by this program: it is pickled between the processes of one job.
    """
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_counts(*counts: int) -> list[list[int]]:
    """The counts of all processes by rank. All must call this with as many."""
    if world_size() == 1:
        return [list(counts)]
    import torch
    import torch.distributed as dist

    own = torch.tensor(counts, device=_place())
    every = own.new_empty((world_size(), len(counts)))
    dist.all_gather(list(every), own)
    return every.tolist()


def total(*numbers: float) -> tuple[float, ...]:
    """Each number, summed over all processes. All must call this with as many."""
    if world_size() == 1:
        return numbers
    import torch
    import torch.distributed as dist

    sums = torch.tensor(numbers, dtype=torch.float64, device=_place())
    dist.all_reduce(sums)
    return tuple(sums.tolist())


def _place() -> str:
    import torch.distributed as dist

    return "cuda" if dist.get_backend() == dist.Backend.NCCL else "cpu"


def once_a_pod(
    folder: Path | None, name: str, kind: TypeAdapter[Value], make: Callable[[], Value]
) -> Value:
    """What `make` gives, called by the first process of the pod; the others wait and are told.

    No process group is needed, so it may take as long as it takes.

    Args:
        folder: One that all processes of the pod see; None if there is no such, and each makes its own.
        name: Of what is made.
        kind: Writes the value as JSON, and reads it.
        make: Makes it.
    """
    if folder is None or world_size() == 1:
        return make()
    told = folder / f"{name}.json"
    if local_rank() == 0:
        value = make()
        part = told.with_suffix(".part")
        part.write_bytes(kind.dump_json(value))
        # Whole or not there.
        part.rename(told)
        return value
    # If the first one fails instead, the launcher ends this process too.
    while not told.exists():
        time.sleep(_POLL_SECONDS)
    return kind.validate_json(told.read_bytes())
