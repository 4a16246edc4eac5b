"""Tells the API server what became of a pod: its status, and Events about it.

Called by `pods`. A status is sent only when it has changed, and again until the server answers: an
outage of the API server delays the news and loses none.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from devcluster.api import STRATEGIC, UNREACHABLE, Api, ApiError
from devcluster.podstatus import PodState, now, status

RETRY_SECONDS = 1.0
LOG = logging.getLogger(__name__)


class Reporter:
    """The voice of one pod; `gone` is set when the pod is not in the API any more."""

    def __init__(self, api: Api, node: str, pod: dict[str, Any], gone: asyncio.Event) -> None:
        self.api, self.node, self.gone = api, node, gone
        self.meta: dict[str, Any] = pod["metadata"]
        self.path = f"/api/v1/namespaces/{self.meta['namespace']}/pods/{self.meta['name']}"
        self.reported: dict[str, Any] = pod.get("status") or {}
        self.lock = asyncio.Lock()

    async def report(self, state: PodState) -> None:
        """Patches the pod's status if it has changed; tries until the server takes or refuses it."""
        async with self.lock:
            while not self.gone.is_set():
                wanted = status(self.meta["uid"], state, self.reported.get("conditions") or [])
                if wanted == self.reported:
                    return
                body = {"metadata": {"uid": self.meta["uid"]}, "status": wanted}
                try:
                    await self.api.request("PATCH", f"{self.path}/status", body, STRATEGIC)
                except UNREACHABLE:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                except ApiError as error:
                    LOG.warning("status of %s: %s", self.path, error)
                    if error.code >= 500 or error.code == 429:
                        await asyncio.sleep(RETRY_SECONDS)
                        continue
                self.reported = wanted
                return

    async def event(self, reason: str, message: str) -> None:
        """Writes a warning Event about the pod."""
        meta = self.meta
        about = {"kind": "Pod", "apiVersion": "v1", "uid": meta["uid"]}
        about |= {key: meta[key] for key in ("name", "namespace")}
        body = {
            "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
            "involvedObject": about,
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": self.node},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        with suppress(ApiError, *UNREACHABLE):
            await self.api.request("POST", f"/api/v1/namespaces/{meta['namespace']}/events", body)
