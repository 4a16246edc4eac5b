"""Runs one pod as local processes, from its volumes to its last status.

Called by `node`, with one task a pod. What a kubelet does and this does not: probes (a running
container is ready), lifecycle hooks, sidecar init containers, resource limits, mount and network
namespaces, and security contexts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from devcluster.api import UNREACHABLE, Api, ApiError, ApiSources
from devcluster.containers import ContainerProcess, Launch, Launcher, termination_message
from devcluster.errors import NotReadyError
from devcluster.podstatus import ContainerState, PodState, now, terminated, waiting
from devcluster.reporting import RETRY_SECONDS, Reporter
from devcluster.volumes import MOUNT_FAILED, VolumeMaker

MAX_BACKOFF_SECONDS = 30.0
LOST = "The container could not be located when the pod was terminated"
LOG = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Host:
    """What all pods of one node share."""

    node: str
    api: Api
    state: Path

    @property
    def images(self) -> dict[str, list[str]]:
        """The local commands of images, read anew each time because tests add to them."""
        return json.loads((self.state / "images.json").read_text())

    def folder(self, uid: str) -> Path:
        """Returns the folder of one pod."""
        return self.state / "nodes" / self.node / uid


class PodRunner:
    """One pod on this node: `run` is its whole life, `update` and `vanish` tell it the news."""

    def __init__(self, host: Host, pod: dict[str, Any]) -> None:
        self.host, self.pod = host, pod
        self.uid: str = pod["metadata"]["uid"]
        self.spec: dict[str, Any] = pod["spec"]
        self.folder = host.folder(self.uid)
        self.state = PodState(
            [ContainerState(each["name"], each["image"]) for each in self.init_containers],
            [ContainerState(each["name"], each["image"]) for each in self.spec["containers"]],
            self.spec.get("restartPolicy", "Always"),
            (pod.get("status") or {}).get("startTime") or now(),
        )
        self.processes: dict[str, ContainerProcess] = {}
        self.volumes: dict[str, Path] = {}
        self.deleted, self.hurry, self.ending = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.reporter = Reporter(host.api, host.node, pod, self.hurry)
        self.told = ""
        sources = ApiSources(host.api, pod["metadata"]["namespace"])
        claims = host.state / "claims"
        self.maker = VolumeMaker(pod, self.folder / "volumes", claims, sources)
        api = host.api
        self.launcher = Launcher(pod, self.folder, sources, api.server, api.authority, host.state)

    @property
    def init_containers(self) -> list[dict[str, Any]]:
        """The specs of the init containers."""
        return self.spec.get("initContainers") or []

    def runs(self, container: str) -> bool:
        """Whether a container's process runs now."""
        return container in self.processes

    def update(self, pod: dict[str, Any]) -> None:
        """Takes note of a change of the pod; only its deletion matters."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self.deleted.set()

    def vanish(self) -> None:
        """The pod is gone from the API: whatever still runs is killed at once."""
        self.hurry.set()
        self.deleted.set()

    # -- the pod's life ---------------------------------------------------------------------

    async def run(self) -> None:
        """Runs the pod until it is deleted and gone."""
        if self.reporter.reported.get("phase") not in ("Succeeded", "Failed"):
            if self.was_here_before():
                self.give_up_lost_containers()
            else:
                await self.live()
            await self.report()
        await self.deleted.wait()
        await self.remove()

    def was_here_before(self) -> bool:
        """Whether an agent before us ran this pod, whose processes died with it."""
        started = "startTime" in self.reporter.reported
        return started and (self.state.restart_policy == "Never" or self.deleted.is_set())

    def give_up_lost_containers(self) -> None:
        """Fails a pod whose processes are gone."""
        message = "The node agent was restarted and its containers ended with it"
        self.state.verdict = {"reason": "NodeAgentRestarted", "message": message}
        self.mark_lost()

    async def live(self) -> None:
        """Runs the containers to their end, or to the pod's deletion or deadline."""
        work = asyncio.create_task(self.run_containers())
        deleted = asyncio.create_task(self.deleted.wait())
        deadline = self.spec.get("activeDeadlineSeconds")
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({work, deleted}, timeout=deadline, return_when=first)
        if not work.done():
            if not self.deleted.is_set():
                message = "Pod was active on the node longer than the specified deadline"
                self.state.verdict = {"reason": "DeadlineExceeded", "message": message}
            await self.end(work)
        deleted.cancel()
        await work

    async def end(self, work: asyncio.Task[None]) -> None:
        """Stops the containers: SIGTERM, the grace period, SIGKILL."""
        self.ending.set()
        for process in self.processes.values():
            process.terminate()
        hurry = asyncio.create_task(self.hurry.wait())
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({work, hurry}, timeout=self.grace, return_when=first)
        hurry.cancel()
        while not work.done():
            for process in self.processes.values():
                process.kill()
            await asyncio.wait({work}, timeout=0.5)
        self.state.stopping = True
        self.mark_lost()

    @property
    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        given = self.pod["metadata"].get("deletionGracePeriodSeconds")
        return self.spec.get("terminationGracePeriodSeconds", 30) if given is None else given

    def mark_lost(self) -> None:
        """Says of containers that neither run nor ended that nothing is known of them."""
        for each in self.state.init + self.state.main:
            if each.exit_code is None:
                each.state = terminated(137, now(), LOST, "ContainerStatusUnknown")

    async def remove(self) -> None:
        """Confirms the deletion to the API server and forgets the pod's files."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        while not self.hurry.is_set():
            try:
                await self.host.api.request("DELETE", self.reporter.path, body)
            except UNREACHABLE:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except ApiError as error:
                LOG.info("delete %s: %s", self.reporter.path, error)
            break
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- its containers ---------------------------------------------------------------------

    async def run_containers(self) -> None:
        """Makes the volumes, runs the init containers in order, then the others together."""
        await self.report()
        states = self.state.init + self.state.main
        volumes = await self.retried(states, self.maker.make_all)
        if volumes is None:
            return
        self.volumes = volumes
        policy = self.state.restart_policy
        init_policy = "Never" if policy == "Never" else "OnFailure"
        for each in self.state.main if self.state.init else []:
            each.state = waiting("PodInitializing")
        for spec, state in zip(self.init_containers, self.state.init, strict=True):
            if not await self.keep(spec, state, init_policy):
                return
        pairs = zip(self.spec["containers"], self.state.main, strict=True)
        await asyncio.gather(*(self.keep(spec, state, policy) for spec, state in pairs))

    async def keep(self, spec: Mapping[str, Any], state: ContainerState, policy: str) -> bool:
        """Runs a container again as long as the policy says so; returns whether it succeeded."""
        backoff = RETRY_SECONDS
        while (code := await self.run_once(spec, state)) is not None:
            again = policy == "Always" or (policy == "OnFailure" and code != 0)
            if self.ending.is_set() or not again:
                return code == 0
            state.last_state = state.state
            state.state = waiting("CrashLoopBackOff", f"back-off {backoff:.0f}s restarting")
            await self.report()
            await self.pause(backoff)
            if self.ending.is_set():
                state.state = state.last_state
                return False
            state.restarts += 1
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
        return False

    async def run_once(self, spec: Mapping[str, Any], state: ContainerState) -> int | None:
        """Runs a container to its end; returns its exit code, None if it never started."""
        prepare = partial(self.prepare, spec, state)
        launch = await self.retried([state], prepare)
        if launch is None or self.ending.is_set():
            return None
        began = now()
        if launch.missing_program:
            message = f'exec: "{launch.argv[0]}": executable file not found in $PATH'
            state.state = terminated(128, began, message, "StartError")
            await self.report()
            return 128
        process = self.processes[spec["name"]] = await ContainerProcess.start(launch)
        if self.ending.is_set():
            process.terminate()
        state.state = {"running": {"startedAt": began}}
        await self.report()
        code = await process.wait()
        del self.processes[spec["name"]]
        state.state = terminated(code, began, termination_message(spec, launch, code))
        await self.report()
        return code

    async def prepare(self, spec: Mapping[str, Any], state: ContainerState) -> Launch:
        """Finds out what to run."""
        images = self.host.images
        return await self.launcher.prepare(spec, state.restarts, self.volumes, images)

    async def retried(
        self, states: Sequence[ContainerState], attempt: Callable[[], Awaitable[T]]
    ) -> T | None:
        """Tries until it works, showing why it does not; None when the pod ends before that."""
        while not self.ending.is_set():
            try:
                return await attempt()
            except NotReadyError as error:
                await self.explain(states, error)
            except (ApiError, *UNREACHABLE) as error:
                LOG.warning("%s: %s", self.reporter.path, error)
            await self.pause(RETRY_SECONDS)
        return None

    async def pause(self, seconds: float) -> None:
        """Sleeps, unless the pod has to end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)

    async def explain(self, states: Sequence[ContainerState], error: NotReadyError) -> None:
        """Shows why containers wait; a volume's trouble is an Event, as with a kubelet."""
        if error.reason != MOUNT_FAILED:
            for each in states:
                each.state = waiting(error.reason, error.message)
            await self.report()
        elif error.message != self.told:
            self.told = error.message
            await self.reporter.event(error.reason, error.message)

    async def report(self) -> None:
        """Tells the API server how the pod is."""
        await self.reporter.report(self.state)
