"""A small asynchronous client of the API server: plain dicts over aiohttp.

Used by the process node alone. It lists, watches and patches what a kubelet needs, and no more.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

STRATEGIC = "application/strategic-merge-patch+json"
BIG_LINE = 8 * 2**20  # one watch event is one line, and an annotation may hold 256 KiB
UNREACHABLE = (aiohttp.ClientError, TimeoutError, ConnectionError)


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Api:
    """A connection to the server of a kubeconfig that holds a bearer token."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.server: str = cluster["server"]
        self.authority = authority
        self.session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {config['users'][0]['user']['token']}"},
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority)),
            read_bufsize=BIG_LINE,
        )

    async def request(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", **query: str
    ) -> dict[str, Any]:
        """Sends one request and returns the answer; raises `ApiError` on a refusal."""
        async with self.session.request(
            method,
            self.server + path,
            params=query,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": kind},
            timeout=aiohttp.ClientTimeout(total=30),
        ) as answer:
            content = await answer.json()
            if answer.status >= 400:
                raise ApiError(answer.status, content.get("message", ""))
            return content

    async def watch(self, path: str, version: str, **query: str) -> AsyncIterator[dict[str, Any]]:
        """Yields watch events until the server ends the watch; raises `ApiError` if it is stale."""
        query |= {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        endless = aiohttp.ClientTimeout(total=None, sock_read=None)
        async with self.session.get(self.server + path, params=query, timeout=endless) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, await answer.text())
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(event["object"].get("code", 500), "the watch is stale")
                yield event


class ApiSources:
    """Reads what a pod's volumes and variables are made of, in the pod's namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.base = api, f"/api/v1/namespaces/{namespace}"

    async def read(self, kind: str, name: str) -> dict[str, bytes] | None:
        """Returns the data of a `secret` or a `configmap`; None if there is none."""
        try:
            found = await self.api.request("GET", f"{self.base}/{kind}s/{name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        encoded = found.get("data" if kind == "secret" else "binaryData") or {}
        plain = {} if kind == "secret" else found.get("data") or {}
        data = {key: base64.b64decode(value) for key, value in encoded.items()}
        return data | {key: value.encode() for key, value in plain.items()}

    async def token(self, pod: Mapping[str, Any], audience: str, seconds: int) -> bytes:
        """Returns a token of the pod's service account that dies with the pod."""
        account = pod["spec"].get("serviceAccountName") or "default"
        bound = {"kind": "Pod", "apiVersion": "v1"}
        bound |= {key: pod["metadata"][key] for key in ("name", "uid")}
        spec = {"audiences": [audience] if audience else [], "expirationSeconds": seconds}
        body = {"spec": spec | {"boundObjectRef": bound}}
        path = f"{self.base}/serviceaccounts/{account}/token"
        return (await self.api.request("POST", path, body))["status"]["token"].encode()
