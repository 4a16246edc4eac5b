"""The process node agent: a kubelet's part without containers, as a process of its own.

Started by `cluster` as `python -m devcluster.node CONFIG`. It registers a Node, renews its Lease,
serves logs, and gives each pod bound to the node a `PodRunner`. What it advertises (GPUs above all)
is made up: nothing is measured and nothing enforced.
"""

from __future__ import annotations

import asyncio
import json
import logging
import platform
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from devcluster.api import STRATEGIC, UNREACHABLE, Api, ApiError
from devcluster.kubelet_api import ContainerLogs, KubeletServer
from devcluster.pods import Host, PodRunner
from devcluster.podstatus import now
from devcluster.ports import LOOPBACK

LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS = 40, 10, 1.0
CAPACITY = {
    "cpu": "64",
    "memory": "512Gi",
    "pods": "200",
    "ephemeral-storage": "1Ti",
    "nvidia.com/gpu": "8",
}
LOG = logging.getLogger("devcluster.node")


@dataclass(frozen=True)
class NodeConfig:
    """What `cluster` tells the agent, in a JSON file."""

    name: str
    kubeconfig: str
    certificate: str
    key: str
    state: str
    version: str

    @classmethod
    def read(cls, file: Path) -> NodeConfig:
        """Reads the file."""
        return cls(**json.loads(file.read_text()))


class Node:
    """One node and its pods."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.api = Api(Path(config.kubeconfig))
        self.host = Host(config.name, self.api, Path(config.state))
        self.pods: dict[str, PodRunner] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.server = KubeletServer(self.find_logs)

    async def run(self) -> None:
        """Runs until SIGTERM; containers die with the agent, see `shim`."""
        config = self.config
        port = await self.server.start(LOOPBACK, Path(config.certificate), Path(config.key))
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await self.patiently(self.register, port)
        loops = [asyncio.create_task(each()) for each in (self.renew_lease, self.watch_pods)]
        ended = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, *loops}, return_when=asyncio.FIRST_COMPLETED)
        for loop in loops:
            if loop.done():
                loop.result()

    async def patiently(self, what: Any, *args: Any) -> None:
        """Does something that needs the API server, until it works."""
        while True:
            try:
                await what(*args)
            except (ApiError, *UNREACHABLE) as error:
                LOG.warning("%s: %s", what.__name__, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    # -- the Node object ----------------------------------------------------------------------

    async def register(self, port: int) -> None:
        """Creates the Node, or takes over the one that an agent before us made."""
        name = self.config.name
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
        labels |= {"kubernetes.io/arch": architecture()}
        body = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}}
        try:
            await self.api.request("POST", "/api/v1/nodes", body)
        except ApiError as error:
            if error.code != 409:
                raise
        status = {"status": self.status(port)}
        await self.api.request("PATCH", f"/api/v1/nodes/{name}/status", status, STRATEGIC)

    def status(self, port: int) -> dict[str, Any]:
        """Returns the Node's status: ready, roomy, and reachable for logs."""
        name, stamp = self.config.name, now()
        times = {"lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
        calm = [f"{kind}Pressure" for kind in ("Memory", "Disk", "PID")]
        conditions = [{"type": kind, "status": "False", **times} for kind in calm]
        conditions += [{"type": "Ready", "status": "True", "reason": "KubeletReady", **times}]
        info = dict.fromkeys(("bootID", "machineID", "systemUUID", "kubeProxyVersion"), name)
        info |= {"kernelVersion": platform.release(), "osImage": "a process node (no containers)"}
        info |= {"operatingSystem": "linux", "architecture": architecture()}
        info |= {"containerRuntimeVersion": "process://1", "kubeletVersion": self.config.version}
        addresses = {"InternalIP": LOOPBACK, "Hostname": name}
        return {
            "addresses": [{"type": kind, "address": where} for kind, where in addresses.items()],
            "capacity": CAPACITY,
            "allocatable": CAPACITY,
            "conditions": conditions,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": info,
        }

    async def renew_lease(self) -> None:
        """Tells the cluster again and again that the node lives."""
        while True:
            await self.patiently(self.renew_lease_once)
            await asyncio.sleep(RENEW_SECONDS)

    async def renew_lease_once(self) -> None:
        """Applies the node's Lease."""
        name = self.config.name
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": stamp}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
        body |= {"metadata": {"name": name}}
        path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
        kind = "application/apply-patch+yaml"
        await self.api.request("PATCH", path, body, kind, fieldManager="node", force="true")

    # -- its pods -----------------------------------------------------------------------------

    async def watch_pods(self) -> None:
        """Follows the pods bound to this node for ever; lists them anew when a watch is stale."""
        while True:
            await self.patiently(self.list_and_watch)

    async def list_and_watch(self) -> None:
        """Lists the pods once and then watches until that fails."""
        bound = {"fieldSelector": f"spec.nodeName={self.config.name}"}
        listed = await self.api.request("GET", "/api/v1/pods", **bound)
        for pod in listed["items"]:
            self.see(pod)
        for uid in set(self.pods) - {pod["metadata"]["uid"] for pod in listed["items"]}:
            self.pods[uid].vanish()
        version = listed["metadata"]["resourceVersion"]
        while True:
            async for event in self.api.watch("/api/v1/pods", version, **bound):
                version = event["object"]["metadata"]["resourceVersion"]
                self.handle(event["type"], event["object"])

    def handle(self, kind: str, pod: dict[str, Any]) -> None:
        """Handles one watch event."""
        if kind in ("ADDED", "MODIFIED"):
            self.see(pod)
        elif kind == "DELETED" and (runner := self.pods.get(pod["metadata"]["uid"])):
            runner.vanish()

    def see(self, pod: dict[str, Any]) -> None:
        """Tells a pod's runner about the pod; a new pod gets a runner."""
        uid = pod["metadata"]["uid"]
        if uid not in self.pods:
            self.pods[uid] = PodRunner(self.host, pod)
            self.pods[uid].update(pod)
            self.tasks[uid] = asyncio.create_task(self.pods[uid].run())
            self.tasks[uid].add_done_callback(lambda task: self.forget(uid, task))
        self.pods[uid].update(pod)

    def forget(self, uid: str, task: asyncio.Task[None]) -> None:
        """Drops a pod whose life here is over."""
        self.pods.pop(uid)
        self.tasks.pop(uid)
        if not task.cancelled() and (error := task.exception()):
            LOG.error("a pod's runner failed", exc_info=error)

    def find_logs(self, namespace: str, name: str, container: str) -> ContainerLogs | None:
        """Returns the logs of a container, for the kubelet API."""
        for runner in self.pods.values():
            meta = runner.pod["metadata"]
            if (meta["namespace"], meta["name"]) == (namespace, name):
                folder = runner.folder / "logs" / container
                files = sorted(folder.glob("*.log"), key=lambda file: int(file.stem))
                return ContainerLogs(files, partial(runner.runs, container))
        return None


def architecture() -> str:
    """Returns this machine's architecture in Go's words."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


async def main(config: Path) -> None:
    """Runs a node from its configuration file."""
    node = Node(NodeConfig.read(config))
    try:
        await node.run()
    finally:
        await node.server.runner.cleanup()
        await node.api.session.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(Path(sys.argv[1])))
