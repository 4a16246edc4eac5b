"""Everything a job needs, started for real: cluster, S3, the installation's rights, the operator.

Used by `make demo` and by the e2e tests. The operator runs as a process of this machine, with the
settings and the service account that the chart gives to users, so a missing right shows up here. The
trainer runs as pods on the cluster's process nodes.
"""

import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devcluster import DevCluster, DevClusterError, S3Server
from devcluster.audit import Request
from devcluster.errors import tail
from devcluster.ports import LOOPBACK, free_ports
from devcluster.processes import Process, spawn, stop
from support import chart, definition

BUCKET = "finetune-demo"
SECRET = "s3-credentials"
OPERATOR_SECONDS = 60
PREFIX = "FINETUNE_OPERATOR_"
# Fast answers for tests; users have 10 and 5 seconds.
FAST = {f"{PREFIX}STATUS_INTERVAL_SECONDS": "1", f"{PREFIX}PROGRESS_INTERVAL_SECONDS": "0.5"}
INSTALLED_BY_PROCESS = ("CustomResourceDefinition", "Deployment")


def program(name: str) -> str:
    """Returns a console script of this environment."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise DevClusterError(f"{path} is missing", "install the project: pip install -e .")
    return str(path)


@dataclass
class Stack:
    """One running installation. `start` gives cluster and S3; the rest is asked for step by step."""

    cluster: DevCluster
    s3: S3Server
    settings: dict[str, str] = field(default_factory=dict)
    account: chart.Account | None = None
    operator: Process | None = None

    @classmethod
    def start(
        cls,
        state: Path,
        *,
        buckets: Sequence[str] = (BUCKET,),
        images: Mapping[str, Sequence[str]] | None = None,
        nodes: int = 1,
        progress: Callable[[str], None] = print,
    ) -> "Stack":
        """Starts the cluster and S3, or attaches to those of the state folder.

        Args:
            state: Folder of the cluster.
            buckets: Buckets that the tenant may use.
            images: Local commands in place of images; `finetune-trainer` is the real one unless
                given here.
            nodes: Process nodes of the cluster.
            progress: Is told about slow steps, such as building the control plane.
        """
        known = {"finetune-trainer": [program("finetune-trainer")], **(images or {})}
        cluster = DevCluster.start(
            state, images=known, s3_buckets=buckets, nodes=nodes, progress=progress
        )
        if cluster.s3 is None:
            raise DevClusterError(f"the cluster in {state} was started without S3")
        return cls(cluster, cluster.s3)

    def stop(self) -> None:
        """Stops the operator, the cluster and S3; the logs stay."""
        self.stop_operator()
        self.cluster.stop()

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what an administrator installs ---------------------------------------------------------

    def apply_definition(self) -> None:
        """Applies the FineTuneJob definition and waits until it can be used."""
        definition.install(self.cluster)

    def install(self, values: Mapping[str, Any] | None = None) -> None:
        """Applies the chart's service account and rights, and takes its settings for the operator.

        The definition is left to `apply_definition`, the Deployment to `start_operator`.
        """
        storage = {"endpoint": self.s3.endpoint, "credentialsSecret": SECRET}
        manifests = chart.render({"storage": storage, **(values or {})})
        self.settings = chart.operator_environment(manifests)
        self.account = chart.service_account(manifests)
        self.ensure_namespace(self.account.namespace)
        wanted = [each for each in manifests if each["kind"] not in INSTALLED_BY_PROCESS]
        for each in wanted:
            if not each["kind"].startswith("Cluster"):
                each["metadata"].setdefault("namespace", self.account.namespace)
        self.cluster.apply(*wanted)

    def ensure_namespace(self, name: str) -> None:
        """Creates a namespace unless it exists."""
        meta = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.cluster.apply(meta)

    def create_tenant(self, namespace: str, secret: str = SECRET) -> None:
        """Creates a namespace and in it the Secret with the tenant's S3 credentials."""
        self.ensure_namespace(namespace)
        keys = self.s3.tenant
        data = {"AWS_ACCESS_KEY_ID": keys.access, "AWS_SECRET_ACCESS_KEY": keys.secret}
        meta = {"name": secret, "namespace": namespace}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data}
        self.cluster.apply(body)

    # -- the operator's process -------------------------------------------------------------------

    @property
    def operator_log(self) -> Path:
        """The operator's log; a restarted operator appends to it."""
        return self.cluster.state / "logs" / "operator.log"

    def start_operator(self, settings: Mapping[str, str] | None = None) -> None:
        """Starts the operator and waits until it is healthy.

        Args:
            settings: Settings over those of the chart, by full name such as
                `FINETUNE_OPERATOR_STATUS_INTERVAL_SECONDS`.

        Raises:
            DevClusterError: It ended, or was not healthy in time; with the end of its log.
        """
        if self.account is None:
            raise DevClusterError("the operator has no service account yet", "call install() first")
        port = str(free_ports(1)[0])
        who = self.cluster.kubeconfig_for_service_account(*vars(self.account).values())
        env = {**self.settings, f"{PREFIX}HEALTH_PORT": port, **(settings or {})}
        env["KUBECONFIG"] = str(who)
        argv = [program("finetune-operator")]
        self.operator = spawn("operator", argv, self.cluster.state, env)
        self._wait_healthy(env[f"{PREFIX}HEALTH_PORT"])

    def stop_operator(self) -> None:
        """Ends the operator in order (SIGTERM)."""
        if self.operator:
            stop([self.operator], grace=10)

    def kill_operator(self) -> None:
        """Ends the operator at once (SIGKILL)."""
        if self.operator:
            stop([self.operator], grace=0)

    def pause_operator(self) -> None:
        """Freezes the operator's process."""
        if self.operator:
            self.operator.signal(signal.SIGSTOP)

    def resume_operator(self) -> None:
        """Lets a frozen operator go on."""
        if self.operator:
            self.operator.signal(signal.SIGCONT)

    def operator_memory(self) -> int:
        """Peak resident memory of the running operator, in bytes; 0 when it does not run."""
        if not (self.operator and self.operator.alive):
            return 0
        lines = Path(f"/proc/{self.operator.pid}/status").read_text().splitlines()
        [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(peak) * 1024

    def operator_writes(self, since: int = 0) -> list[Request]:
        """What the operator asked the API server to write, from the audit log."""
        return self.cluster.audit.writes(self.account.user, since) if self.account else []

    def environment(self) -> dict[str, str]:
        """Variables for a user's shell: kubeconfig, the tenant's S3 keys, our programs on the PATH."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        # kubectl would keep its cache in the working directory, for want of a home.
        cache = {"KUBECACHEDIR": str(self.cluster.state / "kubectl")}
        return self.s3.env() | cache | {"KUBECONFIG": str(self.cluster.kubeconfig), "PATH": path}

    def _wait_healthy(self, port: str) -> None:
        deadline = time.monotonic() + OPERATOR_SECONDS
        while not healthy(port):
            if self.operator:
                self.operator.check()
            if time.monotonic() > deadline:
                raise DevClusterError(
                    f"the operator is not healthy; its log ends with\n{tail(self.operator_log)}"
                )
            time.sleep(0.1)


def healthy(port: str) -> bool:
    """Whether an operator's health endpoint says so."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
