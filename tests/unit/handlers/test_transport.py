"""The client against a server that misbehaves: throttles, fails, hangs, lies, expires tokens."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from finetune_operator.cluster import transport as module
from finetune_operator.cluster.client import FINETUNE_JOBS, JOBS, PODS, Client
from finetune_operator.cluster.connection import Connection
from finetune_operator.cluster.errors import (
    ApiError,
    ConflictError,
    NotFoundError,
    UnavailableError,
)
from finetune_operator.cluster.transport import Request, Transport
from finetune_operator.observe.facts import Key
from finetune_operator.observe.fields import Body, block

Answer = Callable[[web.Request], web.StreamResponse]


@dataclass
class Server:
    """Answers with its script, one entry a request; the last one stays."""

    url: str = ""
    script: list[Answer] = field(default_factory=list)
    requests: list[web.Request] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    logins: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        await request.read()
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if answer is HANG:
            await asyncio.sleep(30)
        return answer(request)

    def connect(self) -> Connection:
        self.logins += 1
        return Connection(self.url, {"Authorization": f"Bearer {self.logins}"})


def status(code: int, reason: str = "R", message: str = "m", **headers: str) -> Answer:
    body = json.dumps({"kind": "Status", "reason": reason, "message": message})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.Response(status=code, body=body, headers=named)


def ok(**body: object) -> Answer:
    return lambda _: web.json_response(body)


HANG = ok()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    found.url = f"http://{host}:{port}"
    yield found
    await runner.cleanup()


@pytest.fixture
async def transport(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transport]:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    found = Transport(server.connect)
    yield found
    await found.close()


GET = Request("GET", "/x", timeout=5)


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(
    server: Server, transport: Transport, code: int
) -> None:
    server.script = [status(code), status(code), ok(a=1)]
    assert await transport.json(GET) == {"a": 1}
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("code", "kind"), [(403, ApiError), (404, NotFoundError), (409, ConflictError), (422, ApiError)]
)
async def test_what_is_refused_is_not_tried_again(
    server: Server, transport: Transport, code: int, kind: type[ApiError]
) -> None:
    server.script = [status(code, "Reason", "the sentence")]
    with pytest.raises(kind) as caught:
        await transport.json(GET)
    assert not isinstance(caught.value, UnavailableError)
    assert (caught.value.status, caught.value.reason) == (code, "Reason")
    assert "the sentence" in str(caught.value)
    assert len(server.requests) == 1


async def test_retry_after_is_obeyed(server: Server, transport: Transport) -> None:
    server.script = [status(429, Retry_After="1"), ok()]
    await transport.json(GET)
    assert server.times[1] - server.times[0] >= 1


async def test_a_server_that_hangs_is_left_and_tried_again(
    server: Server, transport: Transport
) -> None:
    server.script = [HANG, ok(a=1)]
    assert await transport.json(Request("GET", "/x", timeout=0.2)) == {"a": 1}


async def test_attempts_are_bounded(server: Server, transport: Transport) -> None:
    server.script = [status(503, message="etcd is away")]
    with pytest.raises(UnavailableError, match="etcd is away"):
        await transport.send(Request("GET", "/x", attempts=3))
    assert len(server.requests) == 3


async def test_no_server_at_all_is_unavailable(server: Server) -> None:
    nowhere = Transport(lambda: Connection("http://127.0.0.1:1"))
    with pytest.raises(UnavailableError, match="did not answer"):
        await nowhere.send(Request("GET", "/x", attempts=1))
    await nowhere.close()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff"])
async def test_an_answer_that_is_not_json_is_an_error(
    server: Server, transport: Transport, body: bytes
) -> None:
    server.script = [lambda _: web.Response(body=body)]
    with pytest.raises(UnavailableError, match="not JSON"):
        await transport.json(GET)


async def test_a_refusal_in_plain_text_is_shown(server: Server, transport: Transport) -> None:
    server.script = [lambda _: web.Response(status=404, text="404 page not found\x1b[31m\n")]
    with pytest.raises(NotFoundError, match="404 page not found \\(HTTP 404\\)"):
        await transport.json(GET)


async def test_an_expired_token_is_renewed_once(server: Server, transport: Transport) -> None:
    server.script = [status(401), ok(a=1)]
    assert await transport.json(GET) == {"a": 1}
    assert [r.headers["Authorization"] for r in server.requests] == ["Bearer 1", "Bearer 2"]
    server.script = [status(401)]
    with pytest.raises(ApiError) as caught:
        await transport.json(GET)
    assert caught.value.status == 401
    assert len(server.requests) == 4


def test_credentials_do_not_show_in_a_connection() -> None:
    shown = repr(Connection("https://x", {"Authorization": "Bearer secret-token"}))
    assert "secret-token" not in shown


# -- the requests ------------------------------------------------------------------------------


def page(names: list[str], version: str, token: str = "") -> Answer:
    metadata = {"resourceVersion": version, "continue": token}
    return ok(metadata=metadata, items=[{"metadata": {"name": name}} for name in names])


def name_of(body: Body) -> str | None:
    name = str(block(body, "metadata")["name"])
    return None if name == "foreign" else name


async def test_lists_are_read_in_pages(server: Server, transport: Transport) -> None:
    server.script = [page(["a", "foreign"], "7", "next"), page(["b"], "7")]
    listing = await Client(transport).list_all(JOBS, name_of, "team", "finetune.dev/job")
    assert (listing.items, listing.version) == (("a", "b"), 7)
    first, second = (dict(request.query) for request in server.requests)
    assert first == {"limit": "500", "labelSelector": "finetune.dev/job"}
    assert second == first | {"continue": "next"}
    assert server.requests[0].path == "/apis/batch/v1/namespaces/team/jobs"


async def test_a_list_whose_pages_expire_begins_anew(server: Server, transport: Transport) -> None:
    server.script = [page(["a"], "7", "next"), status(410, "Expired"), page(["b"], "9")]
    listing = await Client(transport).list_all(PODS, name_of)
    assert (listing.items, listing.version) == (("b",), 9)


async def test_a_status_is_applied_to_the_version_it_was_made_from(
    server: Server, transport: Transport
) -> None:
    server.script = [ok(kind="FineTuneJob")]
    identity = {"uid": "u", "resourceVersion": "5"}
    await Client(transport).apply_status(Key("team", "demo"), identity, {"state": "Running"})
    [request] = server.requests
    assert request.method == "PATCH"
    assert request.path == FINETUNE_JOBS.path("team", "demo") + "/status"
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"
    assert dict(request.query) == {"fieldManager": "finetune-operator", "force": "true"}
    body = await request.json()
    assert body["metadata"] == {"name": "demo", "namespace": "team"} | identity


@pytest.mark.parametrize("code", [400, 403, 404, 500])
async def test_a_log_that_cannot_be_read_is_no_error_and_no_storm(
    server: Server, transport: Transport, code: int
) -> None:
    server.script = [status(code)]
    assert await Client(transport).log_tail("team", "pod") is None
    assert len(server.requests) == 1


async def test_a_log_in_no_encoding_is_read(server: Server, transport: Transport) -> None:
    server.script = [lambda _: web.Response(body=b"ab\xff\xfe\ncd")]
    text = await Client(transport).log_tail("team", "pod")
    assert text is not None
    assert text.splitlines()[1] == "cd"
