"""Runs etcd, kube-apiserver, kube-controller-manager and kube-scheduler on loopback.

Called by `cluster`. The API server makes its own serving certificate; its key also signs service
account tokens, so no other key is needed. There is no network for Services, hence no DNS and no
webhooks by Service; a webhook by URL works.
"""

from __future__ import annotations

import secrets
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from devcluster import kubeconfig
from devcluster.audit import POLICY
from devcluster.errors import DevClusterError, tail
from devcluster.ports import LOOPBACK, free_ports
from devcluster.processes import Process, spawn

START_SECONDS = 90


@dataclass
class ControlPlane:
    """The four server processes of one cluster, and the kubeconfigs of their users."""

    state: Path
    binaries: dict[str, Path]
    nodes: tuple[str, ...] = ()
    processes: list[Process] = field(default_factory=list)
    server: str = ""

    def start(self) -> None:
        """Starts everything; returns when the API server is ready for requests."""
        etcd, peer, api, manager, scheduler = free_ports(5)
        self.server = f"https://{LOOPBACK}:{api}"
        self.pki.mkdir(parents=True, exist_ok=True)
        self.write_users()
        (self.state / "audit.yaml").write_text(POLICY)
        self.spawn("etcd", self.etcd_flags(etcd, peer))
        self.spawn("kube-apiserver", self.apiserver_flags(api, etcd))
        self.wait_ready()
        for user, token in self.users.items():
            file = self.kubeconfig_of(user)
            kubeconfig.write(file, self.server, self.certificate.read_bytes(), token)
        self.spawn("kube-controller-manager", self.manager_flags(manager))
        self.spawn("kube-scheduler", self.scheduler_flags(scheduler))

    @property
    def pki(self) -> Path:
        """The folder of the API server's certificate and key."""
        return self.state / "pki"

    @property
    def certificate(self) -> Path:
        """The API server's certificate chain; its root is the authority that clients trust."""
        return self.pki / "apiserver.crt"

    @property
    def key(self) -> Path:
        """The key of that certificate."""
        return self.pki / "apiserver.key"

    def kubeconfig_of(self, user: str) -> Path:
        """Returns the kubeconfig file of one of our own users."""
        return self.state / "kubeconfigs" / f"{user.replace(':', '-')}.yaml"

    def write_users(self) -> None:
        """Makes up a bearer token for each user and tells them to the API server."""
        groups = {"admin": "system:masters"}
        groups |= {"system:kube-controller-manager": "", "system:kube-scheduler": ""}
        # No node authorizer here: what the agent may do is not what we test.
        groups |= {f"system:node:{node}": "system:masters,system:nodes" for node in self.nodes}
        self.users = {user: secrets.token_urlsafe(24) for user in groups}
        lines = [f'{self.users[user]},{user},{user},"{group}"' for user, group in groups.items()]
        file = self.state / "tokens.csv"
        file.touch(mode=0o600)
        file.write_text("\n".join(lines) + "\n")

    def spawn(self, program: str, flags: list[str]) -> None:
        """Starts one of the four programs."""
        self.processes.append(spawn(program, [self.binaries[program], *flags], self.state))

    def wait_ready(self) -> None:
        """Polls /readyz until it says ok; raises with the log's end when a server has died."""
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(self.server, self.certificate):
            for process in self.processes:
                process.check()
            if time.monotonic() > deadline:
                log = tail(self.state / "logs" / "kube-apiserver.log")
                raise DevClusterError(f"the API server is not ready; its log ends with\n{log}")
            time.sleep(0.1)

    def etcd_flags(self, client: int, peer: int) -> list[str]:
        """Returns etcd's flags: no fsync, for nothing here outlives the machine."""
        urls = f"http://{LOOPBACK}:{client}", f"http://{LOOPBACK}:{peer}"
        return [
            f"--data-dir={self.state}/etcd",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={urls[0]}",
            f"--advertise-client-urls={urls[0]}",
            f"--listen-peer-urls={urls[1]}",
            f"--initial-advertise-peer-urls={urls[1]}",
            f"--initial-cluster=default={urls[1]}",
        ]

    def apiserver_flags(self, port: int, etcd: int) -> list[str]:
        """Returns the API server's flags."""
        return [
            f"--etcd-servers=http://{LOOPBACK}:{etcd}",
            f"--secure-port={port}",
            f"--bind-address={LOOPBACK}",
            # Goes into the `kubernetes` Endpoints, which refuse loopback and which nobody uses.
            "--advertise-address=192.0.2.1",
            f"--cert-dir={self.pki}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.key}",
            f"--service-account-signing-key-file={self.key}",
            f"--token-auth-file={self.state}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.99.0.0/16",
            "--kubelet-preferred-address-types=InternalIP",
            f"--audit-policy-file={self.state}/audit.yaml",
            f"--audit-log-path={self.state}/audit.log",
            "--audit-log-maxsize=2000",
        ]

    def manager_flags(self, port: int) -> list[str]:
        """Returns the controller manager's flags."""
        return [
            f"--kubeconfig={self.kubeconfig_of('system:kube-controller-manager')}",
            f"--service-account-private-key-file={self.key}",
            f"--root-ca-file={self.certificate}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            f"--secure-port={port}",
            f"--bind-address={LOOPBACK}",
            f"--cert-dir={self.state}/pki-manager",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]

    def scheduler_flags(self, port: int) -> list[str]:
        """Returns the scheduler's flags."""
        return [
            f"--kubeconfig={self.kubeconfig_of('system:kube-scheduler')}",
            "--leader-elect=false",
            f"--secure-port={port}",
            f"--bind-address={LOOPBACK}",
            f"--cert-dir={self.state}/pki-scheduler",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]


def is_ready(server: str, certificate: Path) -> bool:
    """Whether an API server answers its readiness check (anyone may ask)."""
    if not certificate.exists():
        return False
    try:
        trust = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(f"{server}/readyz", context=trust, timeout=5) as answer:
            return answer.read() == b"ok"
    except (OSError, urllib.error.URLError):
        return False
