"""Builds a pod's status from the states of its containers. Pure; called by `pods`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from devcluster.ports import LOOPBACK


def now() -> str:
    """Returns the present time in the API's form."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class ContainerState:
    """What the node knows about one container; `state` has the API's form."""

    name: str
    image: str
    state: dict[str, Any] = field(default_factory=lambda: waiting("ContainerCreating"))
    last_state: dict[str, Any] = field(default_factory=dict)
    restarts: int = 0

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """The exit code, if it has ended."""
        return self.state["terminated"]["exitCode"] if "terminated" in self.state else None


@dataclass
class PodState:
    """What the node knows about one pod."""

    init: list[ContainerState]
    main: list[ContainerState]
    restart_policy: str = "Always"
    started: str = field(default_factory=now)
    stopping: bool = False
    verdict: dict[str, str] = field(default_factory=dict)


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """Returns a waiting state."""
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def terminated(code: int, started: str, message: str = "", reason: str = "") -> dict[str, Any]:
    """Returns a terminated state."""
    state = {
        "exitCode": code,
        "reason": reason or ("Completed" if code == 0 else "Error"),
        "startedAt": started,
        "finishedAt": now(),
    }
    return {"terminated": state | ({"message": message} if message else {})}


def phase(pod: PodState) -> str:
    """Returns the pod's phase, by the rules of a kubelet."""
    if pod.verdict:
        return "Failed"
    codes = [each.exit_code for each in pod.main]
    failed_init = any(each.exit_code for each in pod.init)
    final = pod.stopping or pod.restart_policy == "Never"
    if failed_init and final:
        return "Failed"
    if any(each.running for each in pod.main):
        return "Running"
    if None in codes:
        return "Running" if any(each.last_state for each in pod.main) else "Pending"
    if final or pod.restart_policy == "OnFailure":
        if not any(codes):
            return "Succeeded"
        return "Failed" if final else "Running"
    return "Running"


def condition(
    kind: str, true: bool, reason: str, previous: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Returns a condition whose transition time changes only with its status."""
    status = "True" if true else "False"
    old = next((each for each in previous if each["type"] == kind), None)
    since = old["lastTransitionTime"] if old and old["status"] == status else now()
    result = {"type": kind, "status": status, "lastTransitionTime": since}
    return result | ({} if true else {"reason": reason})


def conditions(pod: PodState, previous: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the three conditions that a node owns; PodScheduled is the scheduler's."""
    ended = phase(pod) in ("Succeeded", "Failed")
    initialized = all(each.exit_code == 0 for each in pod.init)
    ready = not ended and initialized and all(each.running for each in pod.main)
    why = "ContainersNotReady"
    if ended:
        why = "PodCompleted" if phase(pod) == "Succeeded" else "PodFailed"
    return [
        condition("Initialized", initialized, "ContainersNotInitialized", previous),
        condition("ContainersReady", ready, why, previous),
        condition("Ready", ready, why, previous),
    ]


def container_status(uid: str, each: ContainerState) -> dict[str, Any]:
    """Returns the API's form of one container's state."""
    return {
        "name": each.name,
        "image": each.image,
        "imageID": f"process://{each.image}" if "waiting" not in each.state else "",
        "containerID": f"process://{uid}-{each.name}-{each.restarts}",
        "ready": each.running,
        "started": each.running,
        "restartCount": each.restarts,
        "state": each.state,
        "lastState": each.last_state,
    }


def status(uid: str, pod: PodState, previous: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the whole status that the node reports; `previous` are the conditions before."""

    def of(states: Iterable[ContainerState]) -> list[dict[str, Any]]:
        return [container_status(uid, each) for each in states]

    result = {
        "phase": phase(pod),
        "conditions": conditions(pod, previous),
        "hostIP": LOOPBACK,
        "hostIPs": [{"ip": LOOPBACK}],
        "podIP": LOOPBACK,
        "podIPs": [{"ip": LOOPBACK}],
        "startTime": pod.started,
        "containerStatuses": of(pod.main),
    }
    if pod.init:
        result["initContainerStatuses"] = of(pod.init)
    return result | pod.verdict
