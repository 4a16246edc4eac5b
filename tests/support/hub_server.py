"""A hub for tests: the endpoints that huggingface_hub calls to list and download, on this machine.

Models and data sets with commits, branches, gated and private repositories, tokens, large files that
are redirected to a second address (as the hub redirects to its CDN), pages of a listing, and faults
that are injected by path. Nothing can be uploaded. Written from what the client asks for and reads.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_the_right_token"
STRANGER = "hf_of_somebody_without_access"
LARGE = 10_000


@dataclass
class Repository:
    """One repository: its commits, and what its branches point to."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def push(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Adds a commit with exactly these files; returns its hash."""
        seed = f"{len(self.commits)} {branch} {sorted(files)}".encode()
        commit = hashlib.sha1(seed, usedforsecurity=False).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def at_main(self) -> dict[str, bytes]:
        """The files of the newest commit on the main branch."""
        return self.commits[self.branches["main"]]

    def at(self, revision: str) -> str | None:
        """The commit that a revision stands for."""
        return revision if revision in self.commits else self.branches.get(revision)


@dataclass
class Fault:
    """What happens to the next requests of a path instead of an answer."""

    path: str
    what: int | str
    times: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    authorization: str | None
    range: str | None
    at_cdn: bool


class HubServer:
    """The hub at `endpoint`, and its CDN at another port."""

    def __init__(self, page: int = 1000) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.page, self.faults, self.seen = page, list[Fault](), list[Seen]()
        self.lock = threading.Lock()
        self._hub, self._cdn = self._server(_Hub), self._server(_Cdn)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_port}"

    @property
    def cdn(self) -> str:
        return f"http://127.0.0.1:{self._cdn.server_port}"

    def repository(self, name: str, kind: str = "model", **settings: Any) -> Repository:
        """Makes an empty repository."""
        return self.repositories.setdefault((kind, name), Repository(**settings))

    def model(self, name: str, folder: Path, **settings: Any) -> Repository:
        """Makes a model repository of the files of a folder."""
        found = self.repository(name, **settings)
        found.push({path.name: path.read_bytes() for path in folder.iterdir()})
        return found

    def fail(self, path: str, what: int | str, times: int = 1, **headers: str) -> None:
        """Answers the next requests whose path matches by a status, or cuts them (`cut`)."""
        self.faults.append(Fault(path, what, times, headers))

    def requests(self, path: str) -> list[Seen]:
        """The requests so far whose path matches."""
        return [each for each in self.seen if re.search(path, each.path)]

    def blob(self, digest: str) -> bytes | None:
        """Content of a large file by its SHA-256."""
        for repository in self.repositories.values():
            for files in repository.commits.values():
                for content in files.values():
                    if hashlib.sha256(content).hexdigest() == digest:
                        return content
        return None

    def fault(self, path: str) -> Fault | None:
        """The fault that the next request of a path meets, used up by asking."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def stop(self) -> None:
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def _server(self, handler: type["_Handler"]) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {"hub": self}))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server


@contextmanager
def hub_server(page: int = 1000) -> Iterator[HubServer]:
    """A hub that runs while the block does."""
    server = HubServer(page)
    try:
        yield server
    finally:
        server.stop()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    at_cdn = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, headers = unquote(self.path), self.headers
        authorization, wanted = headers.get("authorization"), headers.get("range")
        self.hub.seen.append(Seen(self.command, path, authorization, wanted, self.at_cdn))
        self.fault = self.hub.fault(path)
        if self.fault and isinstance(self.fault.what, int):
            self.answer(self.fault.what, b"{}", self.fault.headers)
        else:
            self.serve(path)

    def serve(self, path: str) -> None:
        raise NotImplementedError

    def answer(
        self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.what == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    def send_file(self, content: bytes, headers: Mapping[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        if not wanted:
            self.answer(200, content, headers)
            return
        first = int(wanted[1])
        span = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.answer(206, content[first:], {**headers, "Content-Range": span})

    def log_message(self, *_: object) -> None:
        pass


class _Cdn(_Handler):
    at_cdn = True

    def serve(self, path: str) -> None:
        content = self.hub.blob(urlsplit(path).path.removeprefix("/"))
        if content is None:
            self.answer(404)
        else:
            self.send_file(content, {})


class _Hub(_Handler):
    def serve(self, path: str) -> None:
        url = urlsplit(path)
        name = r"(?P<name>[^/]+(?:/[^/]+)?)"
        routes = (
            (rf"/api/(?P<kind>model|dataset)s/{name}/revision/(?P<revision>.+)", self._info),
            (rf"/api/(?P<kind>model|dataset)s/{name}/tree/(?P<revision>.+)", self._tree),
            (rf"/(?P<kind>dataset)s/{name}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._file),
            (rf"/{name}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._file),
        )
        self.query = parse_qs(url.query)
        for pattern, serve in routes:
            match = re.fullmatch(pattern, url.path)
            if match:
                self._within(match.groupdict(), serve)
                return
        self.answer(404)

    def _within(self, asked: dict[str, str], serve: Any) -> None:
        """The checks that every endpoint of a repository makes first."""
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if token and token not in (TOKEN, STRANGER):
            self._refuse(401, None, "Invalid credentials in Authorization header")
            return
        found = self.hub.repositories.get((asked.get("kind") or "model", asked["name"]))
        if found is None or (found.private and token != TOKEN):
            # A stranger is not told whether it is there.
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return
        commit = found.at(asked["revision"])
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {asked['revision']}")
            return
        serve(found, commit, asked, token)

    def _info(self, found: Repository, commit: str, asked: dict[str, str], _: str) -> None:
        names = [{"rfilename": name} for name in found.commits[commit]]
        content = {"id": asked["name"], "sha": commit, "siblings": names, "private": found.private}
        self.answer(200, json.dumps({**content, "gated": found.gated}).encode())

    def _tree(self, found: Repository, commit: str, *_: object) -> None:
        entries = list(_entries(found.commits[commit]))
        first = int(self.query.get("cursor", ["0"])[0])
        following, headers = first + self.hub.page, {}
        if following < len(entries):
            url = urlsplit(self.path)
            next_page = f"{self.hub.endpoint}{url.path}?recursive=True&cursor={following}"
            headers["Link"] = f'<{next_page}>; rel="next"'
        self.answer(200, json.dumps(entries[first:following]).encode(), headers)

    def _file(self, found: Repository, commit: str, asked: dict[str, str], token: str) -> None:
        if found.gated and token != TOKEN:
            said = f"Access to {asked['name']} is restricted. Visit its page to ask for access."
            self._refuse(403 if token else 401, "GatedRepo", said)
            return
        content = found.commits[commit].get(asked["file"])
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": commit}
        if len(content) < LARGE:
            self.send_file(content, {**headers, "ETag": f'"{_git_digest(content)}"'})
            return
        digest = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        place = f"{self.hub.cdn}/{digest}?Signature=signed-for-a-moment"
        self.answer(302, b"", {**headers, **linked, "Location": place})

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer(status, json.dumps({"error": message}).encode(), headers)


def _entries(files: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
        yield {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
    for name, content in sorted(files.items()):
        entry = {"type": "file", "path": name, "size": len(content), "oid": _git_digest(content)}
        if len(content) >= LARGE:
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        yield entry


def _git_digest(content: bytes) -> str:
    blob = f"blob {len(content)}\0".encode() + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()
