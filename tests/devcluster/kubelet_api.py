"""Serves container logs to the API server over HTTPS, in the form of a kubelet's `/containerLogs`.

Started by `node`. It is what makes `kubectl logs` and the operator's reading of log tails work;
`exec`, `attach` and `port-forward` are not there.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ContainerLogs:
    """Where a container's logs are (oldest first), and whether more may come."""

    files: list[Path]
    running: Callable[[], bool]


Find = Callable[[str, str, str], ContainerLogs | None]


@dataclass(frozen=True)
class Options:
    """What of a log is wanted; the query of the request."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None
    limit: int | None = None
    since: datetime | None = None

    @classmethod
    def of(cls, request: web.Request) -> Options:
        """Reads the query parameters that the API server sends."""
        query = request.query
        since = None
        if "sinceSeconds" in query:
            since = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))
        elif "sinceTime" in query:
            since = datetime.fromisoformat(query["sinceTime"])
        flags = {key: query.get(key) == "true" for key in ("follow", "previous", "timestamps")}
        tail, limit = (int(query[k]) if k in query else None for k in ("tailLines", "limitBytes"))
        return cls(**flags, tail=tail, limit=limit, since=since)

    def select(self, lines: Iterable[bytes]) -> list[bytes]:
        """Returns the wanted ones of the lines that are there already, in their final form."""
        wanted = (line for line in lines if self.since is None or stamp(line) >= self.since)
        return [self.shape(line) for line in deque(wanted, maxlen=self.tail)]

    def shape(self, line: bytes) -> bytes:
        """Returns a line with or without its timestamp."""
        return line if self.timestamps else line.partition(b" ")[2]


def stamp(line: bytes) -> datetime:
    """Returns the time at which a line was written."""
    return datetime.fromisoformat(line.partition(b" ")[0].decode())


class KubeletServer:
    """The HTTPS server of one node."""

    def __init__(self, find: Find) -> None:
        self.find = find
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self.logs)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self, host: str, certificate: Path, key: Path) -> int:
        """Starts serving and returns the port."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        await self.runner.setup()
        await web.TCPSite(self.runner, host, 0, ssl_context=context).start()
        return self.runner.addresses[0][1]

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """Answers one request for a log."""
        place = (request.match_info[key] for key in ("namespace", "pod", "container"))
        found, options = self.find(*place), Options.of(request)
        index = -2 if options.previous else -1
        if found is None:
            return web.Response(status=404, text="the node does not know this pod")
        if len(found.files) < -index:
            text = f'container "{request.match_info["container"]}" has no such log'
            return web.Response(status=400, text=text)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await send(response, found.files[index], found.running, options)
        await response.write_eof()
        return response


async def send(
    response: web.StreamResponse, log: Path, running: Callable[[], bool], options: Options
) -> None:
    """Writes what is wanted of a log, and what comes later if it is to be followed."""
    left = options.limit
    with log.open("rb") as file:
        lines = options.select(file)
        while True:
            data = b"".join(lines)
            left = left if left is None else left - len(data)
            await response.write(data if left is None or left >= 0 else data[:left])
            if not options.follow or (left is not None and left <= 0):
                return
            lines = [options.shape(line) for line in file]
            if lines:
                continue
            if not running():
                lines = [options.shape(line) for line in file]
                options = Options(timestamps=options.timestamps)
                continue
            await asyncio.sleep(POLL_SECONDS)
