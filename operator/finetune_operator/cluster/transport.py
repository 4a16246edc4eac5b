"""HTTP to the API server: JSON in and out, retries with back-off, one error type a kind of refusal.

Used by `cluster.client` only. Retried are requests that were not answered, throttled (429, with
Retry-After) or failed in the server (5xx); everything is named or versioned such that a repeated
write is harmless. Whoever calls sees at most `attempts` times the timeout plus the back-off.
"""

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from finetune_operator.cluster.connection import Connect, Connection
from finetune_operator.cluster.errors import ApiError, UnavailableError, refusal
from finetune_operator.observe.text import one_line

FIRST_DELAY = 0.2
LONGEST_DELAY = 10.0
LONGEST_RETRY_AFTER = 60.0
MAX_CONNECTIONS = 64
MAX_ERROR_BYTES = 65536
MAX_PLAIN_TEXT = 200
UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True)
class Request:
    """One request; `path` begins with a slash.

    Attributes:
        timeout: Seconds for one try.
        attempts: How often it is tried.
    """

    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = None
    content_type: str = "application/json"
    timeout: float = 30
    attempts: int = 6


class Transport:
    """A pool of connections to one API server."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: Request) -> bytes:
        """The answer's body.

        Raises:
            ApiError: The server refused, or did not answer in all attempts.
        """
        for attempt in range(1, request.attempts + 1):
            try:
                return await self._send_once(request)
            except UnavailableError as error:
                if attempt == request.attempts:
                    raise
                await asyncio.sleep(_delay(attempt, error))
        raise ValueError("a request needs at least one attempt")

    async def json(self, request: Request) -> dict[str, Any]:
        """The answer as a JSON object."""
        content = await self.send(request)
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UnavailableError(502, "NotJSON", f"{request.path}: the answer is not JSON")
        return found

    async def _send_once(self, request: Request) -> bytes:
        try:
            status, headers, content = await self._exchange(request)
            if status == 401:
                # The token has expired; the kubelet has put a new one into its file by now.
                await self._log_in()
                status, headers, content = await self._exchange(request)
        except UNREACHABLE as error:
            text = f"the API server did not answer: {error or type(error).__name__}"
            raise UnavailableError(0, "Unreachable", text) from error
        if status >= 400:
            raise _refusal(status, headers, content)
        return content

    async def _exchange(self, request: Request) -> tuple[int, Mapping[str, str], bytes]:
        session, connection = await self._pool()
        async with session.request(
            request.method,
            connection.server.rstrip("/") + request.path,
            params=request.query,
            data=None if request.body is None else json.dumps(request.body).encode(),
            headers={**connection.headers, "Content-Type": request.content_type},
            timeout=aiohttp.ClientTimeout(total=request.timeout),
        ) as answer:
            limit = MAX_ERROR_BYTES if answer.status >= 400 else -1
            return answer.status, answer.headers, await answer.content.read(limit)

    async def _pool(self) -> tuple[aiohttp.ClientSession, Connection]:
        if self._session is None or self._connection is None:
            return await self._log_in()
        return self._session, self._connection

    async def _log_in(self) -> tuple[aiohttp.ClientSession, Connection]:
        connection = self._connect()
        old, self._connection = self._session, connection
        connector = aiohttp.TCPConnector(ssl=connection.tls or True, limit=MAX_CONNECTIONS)
        self._session = aiohttp.ClientSession(connector=connector)
        if old is not None:
            await old.close()
        return self._session, connection


class _ThrottledError(UnavailableError):
    """The server said when to come again."""

    retry_after: float = 0


def _refusal(status: int, headers: Mapping[str, str], content: bytes) -> ApiError:
    try:
        said = json.loads(content)
    except ValueError:
        # Proxies, and paths that are not served, answer in plain text.
        said = {"message": one_line(content.decode(errors="replace"), MAX_PLAIN_TEXT)}
    said = said if isinstance(said, dict) else {}
    reason, message = str(said.get("reason", "")), str(said.get("message", ""))
    after = headers.get("Retry-After", "")
    if after.isdecimal() and (status == 429 or status >= 500):
        error = _ThrottledError(status, reason, message)
        error.retry_after = min(float(after), LONGEST_RETRY_AFTER)
        return error
    return refusal(status, reason, message)


def _delay(attempt: int, error: UnavailableError) -> float:
    backoff = min(FIRST_DELAY * 2.0 ** (attempt - 1), LONGEST_DELAY)
    wanted: float = error.retry_after if isinstance(error, _ThrottledError) else 0
    # Jitter, so that workers that failed together do not come back together.
    jitter: float = random.uniform(1, 1.25)  # noqa: S311
    return max(backoff, wanted) * jitter
