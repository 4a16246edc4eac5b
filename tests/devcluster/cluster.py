"""The facade: one development cluster, started, found again and stopped as a whole.

Used by `__main__` and by the cluster and e2e tests. Its state is one folder, so that any process can
attach to it. Starting a running cluster attaches, starting a half-dead one
begins anew, and stopping leaves no process behind. With `existing` it stands for a cluster of the
user's own, and nothing but the S3 server is started.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devcluster import binaries, kubeconfig, processes
from devcluster.agents import configure_node, spawn_node
from devcluster.audit import Audit
from devcluster.cleanup import sweep, wipe
from devcluster.controlplane import ControlPlane, is_ready
from devcluster.errors import DevClusterError, tail
from devcluster.paths import default_state_dir, locked
from devcluster.processes import Process
from devcluster.s3 import S3Server

NODE_SECONDS = 60
Images = Mapping[str, Sequence[str]]


@dataclass
class DevCluster:
    """A running cluster. Made by `start` or `attach`, never directly."""

    state: Path
    kubeconfig: Path
    kubectl_path: Path
    s3: S3Server | None = None
    processes: list[Process] = field(default_factory=list)
    existing: bool = False

    # -- starting and stopping --------------------------------------------------------------

    @classmethod
    def start(
        cls,
        state_dir: Path | None = None,
        *,
        images: Images | None = None,
        s3_buckets: Sequence[str] = (),
        nodes: int = 1,
        existing: Path | None = None,
        s3: bool = True,
        progress: Callable[[str], None] = print,
    ) -> DevCluster:
        """Starts a cluster, or attaches to the one that runs in the state folder already.

        Args:
            state_dir: where everything is kept; emptied when the cluster there is not healthy.
            images: the local command for each image, by the last part of its repository's name.
            s3_buckets: buckets to make, which the tenant identity may use.
            nodes: how many process nodes a new cluster gets: `node-0`, `node-1`, …
            existing: kubeconfig of a cluster of the user's own, to be used instead.
            s3: whether to run the S3 server.
            progress: is told about slow steps, such as building the binaries.
        """
        state = (state_dir or default_state_dir()).absolute()
        with locked(state.with_name(state.name + ".lock")):
            cluster = cls.running(state)
            wanted = existing.absolute() if existing else state / "kubeconfigs" / "admin.yaml"
            if cluster is None or cluster.kubeconfig != wanted:
                wipe(state)
                store = S3Server(state, tuple(s3_buckets)) if s3 else None
                try:
                    cluster = cls.launch(state, store, nodes, existing, progress)
                except BaseException:
                    sweep(state)
                    raise
            cluster.add_images(images or {})
            if cluster.s3:
                cluster.s3.ensure_buckets(tuple(s3_buckets))
            cluster.save()
        return cluster

    @classmethod
    def launch(
        cls,
        state: Path,
        store: S3Server | None,
        nodes: int,
        existing: Path | None,
        progress: Callable[[str], None],
    ) -> DevCluster:
        """Starts all processes; S3 comes up while the control plane does."""
        found = {} if existing else binaries.find_all(progress=progress)
        if store:
            store.start()
        if existing:
            kubectl = binaries.kubectl_for_existing_cluster()
            cluster = cls(state, existing.absolute(), kubectl, store, existing=True)
        else:
            cluster = cls.launch_kubernetes(state, found, nodes)
            cluster.s3 = store
        if store:
            store.wait_ready()
        return cluster

    @classmethod
    def launch_kubernetes(cls, state: Path, found: dict[str, Path], nodes: int) -> DevCluster:
        """Starts the control plane and the nodes, and waits until pods can run."""
        names = tuple(f"node-{index}" for index in range(nodes))
        plane = ControlPlane(state, found, names)
        (state / "images.json").write_text("{}")
        plane.start()
        running = plane.processes + [configure_node(plane, name) for name in names]
        admin = plane.kubeconfig_of("admin")
        cluster = cls(state, admin, found["kubectl"], processes=running)
        cluster.wait_for_nodes(nodes)
        return cluster

    @classmethod
    def attach(cls, state_dir: Path | None = None) -> DevCluster:
        """Returns the cluster of a state folder; raises when none is running there."""
        state = (state_dir or default_state_dir()).absolute()
        cluster = cls.running(state)
        if cluster is None:
            raise DevClusterError(f"no cluster is running in {state}", "start one with `up`")
        return cluster

    @classmethod
    def running(cls, state: Path) -> DevCluster | None:
        """Returns the cluster of a state folder if all of it is alive."""
        file = state / "cluster.json"
        if not file.exists():
            return None
        known = json.loads(file.read_text())
        cluster = cls(
            state,
            Path(known["kubeconfig"]),
            Path(known["kubectl"]),
            S3Server.load(state) if known["s3"] else None,
            [Process(**each) for each in known["processes"]],
            known["existing"],
        )
        return cluster if cluster.healthy() else None

    def healthy(self) -> bool:
        """Whether every process lives and the API server is ready."""
        if not all(each.alive for each in self.processes) or (self.s3 and not self.s3.alive):
            return False
        return self.existing or is_ready(self.server, self.state / "pki" / "apiserver.crt")

    def save(self) -> None:
        """Writes the state file, whole or not at all."""
        known = {
            "kubeconfig": str(self.kubeconfig),
            "kubectl": str(self.kubectl_path),
            "s3": self.s3 is not None,
            "processes": [each.to_dict() for each in self.processes],
            "existing": self.existing,
        }
        scratch = self.state / "cluster.json.new"
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps(known, indent=1))
        scratch.rename(self.state / "cluster.json")

    def stop(self) -> None:
        """Stops everything that was started; the logs stay until the next start."""
        stop(self.state)

    def __enter__(self) -> DevCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- using it -----------------------------------------------------------------------------

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self.current_cluster()["server"]

    @property
    def audit(self) -> Audit:
        """What clients asked of the API server."""
        if self.existing:
            raise DevClusterError("the audit log of an existing cluster cannot be read")
        return Audit(self.state / "audit.log")

    def add_images(self, images: Images) -> None:
        """Tells the nodes the local commands of more images."""
        file = self.state / "images.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        known |= {name: list(argv) for name, argv in images.items()}
        scratch = file.with_suffix(".new")
        scratch.write_text(json.dumps(known, indent=1))
        scratch.rename(file)

    def kubectl(
        self, *args: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as the admin; raises with its message when it fails, unless told not to."""
        cache = f"--cache-dir={self.state}/kubectl"
        argv = [str(self.kubectl_path), f"--kubeconfig={self.kubeconfig}", cache, *args]
        done = subprocess.run(argv, check=False, input=stdin, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise DevClusterError(f"kubectl {' '.join(args)} failed:\n{done.stderr.strip()}")
        return done

    def kubectl_json(self, *args: str, stdin: str | None = None) -> Any:
        """Runs kubectl with `-o json` and returns what it printed."""
        return json.loads(self.kubectl(*args, "-o", "json", stdin=stdin).stdout)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Applies objects given as dicts."""
        body = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def status_lines(self) -> list[str]:
        """Returns one line for each process."""
        store = self.s3.process if self.s3 else None
        all_of_them = [*self.processes, *([store] if store else [])]
        state = {True: "running", False: "ended"}
        return [f"{each.name:<26} pid {each.pid:<8} {state[each.alive]}" for each in all_of_them]

    def current_cluster(self) -> dict[str, Any]:
        """Returns the `cluster` entry of the admin's kubeconfig."""
        view = self.kubectl_json("config", "view", "--raw", "--minify", "--flatten")
        return view["clusters"][0]["cluster"]

    def kubeconfig_for_service_account(
        self, namespace: str, name: str, duration: str = "24h"
    ) -> Path:
        """Returns a kubeconfig with a fresh token of a service account."""
        asked = ("create", "token", name, f"--namespace={namespace}", f"--duration={duration}")
        token = self.kubectl(*asked).stdout.strip()
        file = self.state / "kubeconfigs" / f"{namespace}.{name}.yaml"
        return kubeconfig.write_like(file, self.current_cluster(), token, namespace)

    def claim_folder(self, namespace: str, claim: str) -> Path:
        """Returns the local folder behind a PersistentVolumeClaim on the process nodes."""
        folder = self.state / "claims" / namespace / claim
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def kill_node(self, name: str) -> None:
        """Kills a node's agent (SIGKILL), and with it the processes of its pods."""
        processes.stop((each for each in self.processes if each.name == name), grace=0)

    def start_node(self, name: str) -> None:
        """Starts the agent of a killed node again."""
        others = [each for each in self.processes if each.name != name]
        self.processes = [*others, spawn_node(self.state, name)]
        self.save()

    def kill_process(self, name: str) -> None:
        """Kills a process of the control plane (SIGKILL)."""
        processes.stop((each for each in self.processes if each.name == name), grace=0)

    def restart_process(self, name: str) -> None:
        """Starts a killed process of the control plane again, as it was started first."""
        [killed] = [each for each in self.processes if each.name == name]
        others = [each for each in self.processes if each is not killed]
        self.processes = [*others, processes.spawn(name, killed.argv, self.state)]
        self.save()

    def wait_for_nodes(self, count: int) -> None:
        """Waits until the nodes are ready and the default service account is there."""
        deadline = time.monotonic() + NODE_SECONDS
        while not (self.ready_nodes() >= count and self.has_default_account()):
            for process in self.processes:
                process.check()
            if time.monotonic() > deadline:
                log = tail(self.state / "logs" / "node-0.log")
                raise DevClusterError(f"the nodes are not ready; the first one's log ends:\n{log}")
            time.sleep(0.1)

    def ready_nodes(self) -> int:
        """Returns how many nodes are ready and take pods."""
        ready = {"type": "Ready", "status": "True"}
        return sum(
            not node["spec"].get("taints")
            and any(ready.items() <= each.items() for each in node["status"]["conditions"])
            for node in self.kubectl_json("get", "nodes")["items"]
        )

    def has_default_account(self) -> bool:
        """Whether pods can be created in the namespace `default`."""
        return self.kubectl("get", "serviceaccount", "default", check=False).returncode == 0


def stop(state_dir: Path | None = None) -> None:
    """Stops the cluster of a state folder, whatever is left of it."""
    state = (state_dir or default_state_dir()).absolute()
    with locked(state.with_name(state.name + ".lock")):
        sweep(state)
        (state / "cluster.json").unlink(missing_ok=True)
