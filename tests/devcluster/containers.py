"""Prepares and runs the process of one container.

Called by `pods`, which decides when to run it and how often. What happens around the process
itself (its log, its children, its signals) is in `shim`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster import environment, kubeconfig
from devcluster.environment import Sources
from devcluster.errors import NotReadyError
from devcluster.processes import MARKER
from devcluster.shim import KILL
from devcluster.volumes import mounts_of

# Upper case is for tags alone.
IMAGE_NAME = re.compile(r"[a-z0-9][a-z0-9._:/-]*?(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
SHIM = Path(__file__).with_name("shim.py")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
MESSAGE_BYTES, LOG_TAIL_BYTES, LOG_TAIL_LINES = 4096, 2048, 80


@dataclass(frozen=True)
class Launch:
    """All that is needed to start one container once."""

    argv: list[str]
    env: dict[str, str]
    folder: Path
    log: Path
    message_file: Path

    @property
    def missing_program(self) -> bool:
        """Whether there is no such program on this machine."""
        return shutil.which(self.argv[0], path=self.env["PATH"]) is None


class ContainerProcess:
    """A running container."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, launch: Launch) -> ContainerProcess:
        """Starts the shim with the container's command."""
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        launch.log.touch()
        shim = [sys.executable, "-I", "-S", str(SHIM), str(os.getpid()), str(launch.log)]
        process = await asyncio.create_subprocess_exec(
            *shim, *launch.argv, cwd=launch.folder, env=launch.env, start_new_session=True
        )
        return cls(process)

    async def wait(self) -> int:
        """Waits for the end and returns the exit code, 128 plus the signal for a killed one."""
        code = await self.process.wait()
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Asks the command to end."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the command and everything it started."""
        self.send(KILL)

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


@dataclass(frozen=True)
class Launcher:
    """Turns the spec of a pod's container into a `Launch`."""

    pod: Mapping[str, Any]
    folder: Path
    sources: Sources
    server: str
    authority: str
    state: Path

    async def prepare(
        self,
        container: Mapping[str, Any],
        restarts: int,
        volumes: Mapping[str, Path],
        images: Mapping[str, Sequence[str]],
    ) -> Launch:
        """Returns what to run; raises `NotReadyError` as a kubelet would."""
        name, image = container["name"], container["image"]
        command = environment.image_command(image, images)
        if not IMAGE_NAME.fullmatch(image):
            message = f'couldn\'t parse image name "{image}": invalid reference format'
            raise NotReadyError("InvalidImageName", message)
        if command is None:
            known = ", ".join(sorted(images)) or "none"
            message = f'failed to pull image "{image}": not found: this process node knows: {known}'
            raise NotReadyError("ErrImagePull", message)
        home = self.folder / "containers" / name
        home.mkdir(parents=True, exist_ok=True)
        message_file = home / "termination-log"
        message_file.write_bytes(b"")
        mounts = mounts_of(container, volumes)
        mounts[container.get("terminationMessagePath", "/dev/termination-log")] = message_file
        env = self.base_env(home, mounts.get(ACCOUNT))
        wanted = await environment.environment(self.pod, container, self.sources)
        env |= {key: self.localise(value, mounts) for key, value in wanted.items()}
        argv = environment.argv(container, command, env)
        argv = [self.localise(word, mounts) for word in argv]
        folder = working_folder(self.localise(container.get("workingDir", ""), mounts), home)
        log = log_file(self.folder, name, restarts)
        return Launch(argv, env, folder, log, message_file)

    def localise(self, value: str, mounts: Mapping[str, Path]) -> str:
        """Replaces mount paths and the names of the pod's peers."""
        return environment.resolve_peers(environment.rewrite(value, mounts), self.pod)

    def base_env(self, home: Path, account: Path | None) -> dict[str, str]:
        """Returns the variables that every container has, whatever its spec says."""
        host, port = self.server.removeprefix("https://").split(":")
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
        env |= {"HOSTNAME": self.pod["spec"].get("hostname") or self.pod["metadata"]["name"]}
        env |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        env |= {MARKER: str(self.state)}
        if account:  # clients look for the token at a fixed path, which is not there
            token = (account / "token").read_text()
            namespace = self.pod["metadata"]["namespace"]
            file, trust = home / "kubeconfig", self.authority.encode()
            env["KUBECONFIG"] = str(kubeconfig.write(file, self.server, trust, token, namespace))
        return env


def working_folder(wanted: str, home: Path) -> Path:
    """Returns the folder to start in; one that is only in the image is replaced by our own."""
    return Path(wanted) if wanted and Path(wanted).is_dir() else home


def log_file(pod_folder: Path, container: str, restarts: int) -> Path:
    """Returns the log of one run of a container."""
    return pod_folder / "logs" / container / f"{restarts}.log"


def termination_message(container: Mapping[str, Any], launch: Launch, code: int) -> str:
    """Returns what the container left in its message file, or its log's end if it asks so."""
    with suppress(OSError):
        with launch.message_file.open("rb") as file:
            content = file.read(MESSAGE_BYTES)
        if content:
            return content.decode(errors="replace")
    policy = container.get("terminationMessagePolicy")
    if policy != "FallbackToLogsOnError" or code == 0 or not launch.log.exists():
        return ""
    lines = launch.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    text = "\n".join(line.partition(" ")[2] for line in lines)
    return text.encode()[-LOG_TAIL_BYTES:].decode(errors="replace")
