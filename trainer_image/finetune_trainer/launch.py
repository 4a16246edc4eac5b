"""Starts one training process for each GPU of this pod, and sits above them until the last has ended.

Called by `run` in a process that is not such a one itself. Starting, meeting the other pods, passing on
signals and ending all when one fails are torchrun's (its library `torch.distributed.launcher`); ours is
which report speaks for the pod. It trains nothing.
"""

import logging
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.records import Report, parse_report
from finetune_api.run_file import RENDEZVOUS, SCRATCH
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.environment import GANG, cpu_count, report_file
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign
from finetune_trainer.processes import RANK, WORLD_SIZE
from finetune_trainer.run_input import RunInput

# Set by Kubernetes in each pod of an Indexed Job.
NODE_RANK = "JOB_COMPLETION_INDEX"
# Pods are scheduled and pull their images at different times.
MEETING_SECONDS = 3600
# What remains of the grace period for the report, once the processes are gone.
REPORT_SECONDS = 3


@dataclass(frozen=True)
class Gang:
    """The processes of a run.

    Attributes:
        nodes: Pods.
        node_rank: Number of this one.
        per_node: Processes in each.
        address: `host:port` where they meet; empty with one pod.
    """

    nodes: int
    node_rank: int
    per_node: int
    address: str = ""

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.nodes * self.per_node


def processes_of(spec: FineTuneJobSpec) -> int:
    """How many processes a spec asks for: one a GPU, or one a node on the CPU."""
    return spec.resources.nodes * max(1, spec.resources.gpus_per_node)


def gang(given: RunInput, variables: Mapping[str, str]) -> Gang | None:
    """The processes that are to be started here; None if this one trains itself.

    Args:
        given: What to run.
        variables: The environment. A process that torchrun started, by whomever, has a rank.

    Raises:
        TrainerError: InvalidSpec for several nodes on a laptop; DistributedMismatch if torchrun was told
            another number of processes than the spec.
    """
    spec, wanted = given.run.spec, processes_of(given.run.spec)
    if RANK in variables:
        _require(wanted, int(variables[WORLD_SIZE]), given)
        return None
    if wanted == 1:
        return None
    per_node = max(1, spec.resources.gpus_per_node)
    address = variables.get(RENDEZVOUS, "")
    if spec.resources.nodes > 1 and not address:
        message = f"`resources.nodes` is {spec.resources.nodes}, and this is one machine"
        hint = "On machines of your own, start `finetune-trainer run` on each with torchrun."
        raise TrainerError(Reason.INVALID_SPEC, message, hint)
    return Gang(spec.resources.nodes, int(variables.get(NODE_RANK, "0")), per_node, address)


def _require(wanted: int, found: int, given: RunInput) -> None:
    # On the CPU of a laptop, torchrun alone says how many there are.
    free = given.laptop and given.run.spec.resources.gpus_per_node == 0
    if found != wanted and not free:
        message = f"torchrun started {found} processes, and the job asks for {wanted}"
        raise TrainerError(Reason.DISTRIBUTED_MISMATCH, message)


def launch(
    gang: Gang, given: RunInput, scratch: Path, variables: MutableMapping[str, str]
) -> Report:
    """Run all processes of this pod to their end; returns the report that speaks for them.

    Args:
        gang: What to start.
        given: What they run.
        scratch: Folder that they share.
        variables: The process environment, which they inherit.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    folder = _prepared(gang, scratch, variables)
    # It tells people of failures in its own words; ours follow.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    config = LaunchConfig(**settings(gang, given), logs_specs=None)
    try:
        elastic_launch(config, sys.executable)(*command(given))
    except ChildFailedError as error:
        return culprit(folder, gang, _in_order(error.failures))
    except SignalException as error:
        return _stopped(folder, signal.Signals(error.sigval).name)
    return _first(folder) or _failed(Reason.INTERNAL_ERROR, "no process left a report")


def command(given: RunInput) -> list[str]:
    """Arguments of the interpreter for each process."""
    return ["-P", "-m", "finetune_trainer", "run", str(given.file)]


def settings(gang: Gang, given: RunInput) -> dict[str, Foreign]:
    """Arguments of torchrun's `LaunchConfig`. Pure; golden files show what it gives."""
    return {
        "min_nodes": gang.nodes,
        "max_nodes": gang.nodes,
        "nproc_per_node": gang.per_node,
        "run_id": f"{given.run.job.uid}-{given.run.attempt}",
        **_meeting(gang),
        # The operator decides whether there is another attempt.
        "max_restarts": 0,
        "monitor_interval": 0.1,
        "shutdown_timeout": max(1, given.run.grace_seconds - REPORT_SECONDS),
    }


def _meeting(gang: Gang) -> dict[str, Foreign]:
    if gang.nodes == 1:
        # Any port that is free.
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "rdzv_configs": {}}
    known = {"rank": gang.node_rank, "timeout": MEETING_SECONDS}
    return {"rdzv_backend": "static", "rdzv_endpoint": gang.address, "rdzv_configs": known}


def _prepared(gang: Gang, scratch: Path, variables: MutableMapping[str, str]) -> Path:
    folder = scratch / "gang"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    variables[GANG], variables[SCRATCH] = str(folder), str(scratch)
    threads, cores = "OMP_NUM_THREADS", cpu_count()
    if variables.get(threads, str(cores)) == str(cores):
        # Theirs to share.
        variables[threads] = str(max(1, cores // gang.per_node))
    return folder


def _in_order(failures: Mapping[int, Foreign]) -> list[tuple[int, int]]:
    """Rank and exit code of those that failed, the first one first."""
    ordered = sorted(failures.items(), key=lambda found: (found[1].timestamp, found[0]))
    return [(rank, failure.exitcode) for rank, failure in ordered]


def culprit(folder: Path, gang: Gang, failed: list[tuple[int, int]]) -> Report:
    """The report of the process that failed first, and of its own accord."""
    reports = [_report(folder, rank) or _silent(rank, gang, code) for rank, code in failed]
    others = (Reason.PEER_FAILED, Reason.PREEMPTED)
    return next((each for each in reports if each.reason not in others), reports[0])


def _silent(rank: int, gang: Gang, code: int) -> Report:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    reason = Reason.POD_LOST if code < 0 else Reason.INTERNAL_ERROR
    return _failed(reason, f"process {rank} of {gang.size} {how} before it could report")


def _stopped(folder: Path, name: str) -> Report:
    """The report of those that were told to stop: what the first of them made of it."""
    return _first(folder) or _failed(Reason.PREEMPTED, f"the run was told to stop by {name}")


def _first(folder: Path) -> Report | None:
    ranks = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())
    return _any(_report(folder, rank) for rank in ranks)


def _any(reports: Iterable[Report | None]) -> Report | None:
    return next((each for each in reports if each), None)


def _report(folder: Path, rank: int) -> Report | None:
    path = report_file(folder, rank)
    return parse_report(path.read_text("utf-8")) if path.exists() else None


def _failed(reason: Reason, message: str) -> Report:
    return Report(
        outcome="Failed", reason=reason, message=message, hint=reason.meaning.hint or None
    )
