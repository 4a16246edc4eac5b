"""The faults: each ends one part at once (SIGKILL) and, where nobody else would, starts it again.

Called by `chaos.course`. A fault strikes what is there; it returns False if that part does not run at
this moment, so that the course can wait for it. Nothing here knows what must come out.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from devcluster import DevClusterError, processes
from support.tenant import Object, Tenant

DOWN_SECONDS = 4.0
API_SERVER = "kube-apiserver"


@dataclass(frozen=True)
class Target:
    """What is disturbed: one job of one tenant, and everything that it runs on.

    Attributes:
        random: Chooses moments and victims.
        operator: Settings that a killed operator comes back with.
        wanted: Changes of the job's spec; None for what the course has.
    """

    tenant: Tenant
    job: str
    random: random.Random
    operator: Mapping[str, str] = field(default_factory=dict)
    wanted: Object | None = None

    def pods(self) -> list[Object]:
        """The job's pods that run."""
        found = self.tenant.children("pods", self.job)
        return [pod for pod in found if pod.get("status", {}).get("phase") == "Running"]

    def pause(self) -> None:
        """A random time that a part stays down."""
        time.sleep(self.random.uniform(0, DOWN_SECONDS))


def kill_trainer(target: Target) -> bool:
    """Ends the trainers' processes, as the kernel does when memory is short."""
    found = trainers(target.tenant.stack.cluster.state)
    if not found:
        return False
    _kill(*found)
    return True


def kill_rank(target: Target) -> bool:
    """Ends one training process of several; the others find out by themselves."""
    found = ranks(target.tenant.stack.cluster.state)
    if not found:
        return False
    _kill(target.random.choice(found))
    return True


def delete_pod(target: Target) -> bool:
    """Deletes a pod with no grace, as a node that is taken away does."""
    pods = target.pods()
    if not pods:
        return False
    name = target.random.choice(pods)["metadata"]["name"]
    arguments = ("-n", target.tenant.namespace, "--grace-period=0", "--force", "--wait=false")
    target.tenant.stack.cluster.kubectl("delete", "pod", name, *arguments, check=False)
    return True


def evict_pod(target: Target) -> bool:
    """Tells a pod to stop within its grace period, as a drained node does."""
    pods = target.pods()
    if not pods:
        return False
    name = target.random.choice(pods)["metadata"]["name"]
    # It may have ended meanwhile.
    with suppress(DevClusterError):
        target.tenant.evict(name)
    return True


def kill_node(target: Target) -> bool:
    """Ends a node's agent and all that runs on the node; the agent comes back."""
    pods = target.pods()
    if not pods:
        return False
    node = target.random.choice(pods)["spec"]["nodeName"]
    target.tenant.stack.cluster.kill_node(node)
    target.pause()
    target.tenant.stack.cluster.start_node(node)
    return True


def kill_operator(target: Target) -> bool:
    """Ends the operator; it comes back with the settings that it had."""
    stack = target.tenant.stack
    stack.kill_operator()
    target.pause()
    stack.start_operator(target.operator)
    return True


def kill_api_server(target: Target) -> bool:
    """Ends the API server; it comes back on the same port."""
    cluster = target.tenant.stack.cluster
    cluster.kill_process(API_SERVER)
    target.pause()
    cluster.restart_process(API_SERVER)
    return True


def kill_store(target: Target) -> bool:
    """Ends the S3 server; it comes back with its data."""
    store = target.tenant.stack.s3
    store.kill()
    target.pause()
    store.start()
    store.wait_ready()
    return True


FAULTS: dict[str, Callable[[Target], bool]] = {
    "trainer": kill_trainer,
    "one rank": kill_rank,
    "pod": delete_pod,
    "eviction": evict_pod,
    "node": kill_node,
    "operator": kill_operator,
    "API server": kill_api_server,
    "S3": kill_store,
}
# Those that end an attempt; the others leave the trainer alone.
ENDING = ("trainer", "one rank", "pod", "eviction", "node")


def _kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def trainers(state: Path) -> list[int]:
    """Process ids of the trainers on the process nodes; preflights are none."""
    return _running(state, lambda word: word.endswith((b"finetune-trainer", b"finetune_trainer")))


def ranks(state: Path) -> list[int]:
    """Those of them that a launcher started."""
    return _running(state, lambda word: word == b"finetune_trainer")


def _running(state: Path, is_program: Callable[[bytes], bool]) -> list[int]:
    found = []
    for process in processes.strays(state):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
            if b"run" in words and any(is_program(word) for word in words):
                found.append(process.pid)
    return found
