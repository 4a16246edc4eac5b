"""A proxy in front of a real S3 server that misbehaves on request.

Used by the tests of storage and checkpoints: the client and the store are real, and only what lies
between them is hostile. Faults are rules; the first one that fits a request is used up and decides.
The Host header passes unchanged, so signatures stay valid.
"""

from __future__ import annotations

import http.client
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Kind = Literal[
    "status",  # answer with a status and an S3 error code; the store never hears of it
    "reset",  # cut the connection before the store hears of it
    "lost reply",  # the store does it, and the client never learns
    "truncate",  # half of the answer's body
    "flip",  # another byte somewhere in the answer's body
    "flip upload",  # another byte somewhere in the request's body
    "slow",  # the answer in small pieces
    "call instead",  # call a function; the store never hears of it
    "call after",  # forward, call a function, then answer
]


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    method: str
    path: str
    query: dict[str, list[str]]

    @property
    def part(self) -> int | None:
        """Number of the part, if this uploads one."""
        return int(self.query["partNumber"][0]) if "partNumber" in self.query else None


@dataclass
class Fault:
    """One rule.

    Attributes:
        kind: What happens.
        when: Which requests it fits.
        times: How many of them.
        after: How many are let pass first.
        status: For `status`.
        code: For `status`.
        call: For `call instead` and `call after`.
        bytes_per_second: For `slow`.
    """

    kind: Kind
    when: Callable[[Request], bool] = lambda _: True
    times: int = 1_000_000
    after: int = 0
    status: int = 503
    code: str = "SlowDown"
    call: Callable[[], object] = lambda: None
    bytes_per_second: float = 1e6


@dataclass
class HostileS3:
    """The proxy. Use it as a context: `with HostileS3(server.endpoint) as proxy`.

    Attributes:
        upstream: URL of the real server.
        faults: Rules, in order.
        seen: Every request that arrived.
    """

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """The URL that clients use."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HostileS3:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def fault(self, *faults: Fault) -> Iterator[None]:
        """Rules for a while."""
        self.faults = list(faults)
        try:
            yield
        finally:
            self.faults = []

    def choose(self, request: Request) -> Fault | None:
        """The fault of a request, which is used up by it."""
        with self._lock:
            self.seen.append(request)
            for fault in self.faults:
                if not fault.when(request):
                    continue
                if fault.after:
                    fault.after -= 1
                elif fault.times:
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: HostileS3

    def log_message(self, *_: object) -> None:
        """Keep stderr clean."""

    def handle_one_request(self) -> None:
        """One request; a client that has gone is no error."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _serve(self) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        request = Request(self.command, parts.path, query)
        fault = self.owner.choose(request)
        kind = fault.kind if fault else None
        if fault and kind == "status":
            self._refuse(fault)
            return
        if fault and kind in ("reset", "call instead"):
            fault.call()
            self._reset()
            return
        status, headers, answer = self._forward(_flip(body) if kind == "flip upload" else body)
        if fault and kind == "call after":
            fault.call()
        if kind == "lost reply":
            self._reset()
            return
        self._answer(status, headers, answer, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the base class's names

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError("the client is expected to send a Content-Length")
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        address = urlsplit(self.owner.upstream)
        upstream = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None
    ) -> None:
        kind = fault.kind if fault else None
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header(
            "Content-Length", length if self.command == "HEAD" and length else str(len(body))
        )
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "truncate":
            self.wfile.write(body[: len(body) // 2])
            self._reset()
        elif fault and kind == "slow":
            self._trickle(body, fault.bytes_per_second)
        else:
            self.wfile.write(_flip(body) if kind == "flip" else body)

    def _trickle(self, body: bytes, rate: float) -> None:
        piece = max(1, int(rate / 20))
        for start in range(0, len(body), piece):
            self.wfile.write(body[start : start + piece])
            time.sleep(0.05)

    def _refuse(self, fault: Fault) -> None:
        body = f"<Error><Code>{fault.code}</Code><Message>hostile</Message></Error>".encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        self.wfile.flush()
        # Without lingering, closing sends RST.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def _flip(body: bytes) -> bytes:
    if not body:
        return body
    # Another place each time, as on a bad line; seldom the same one twice.
    at = secrets.randbelow(len(body))
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
