"""The requests that this operator makes, and no others.

Used by the reconciler, the log reader and the start-up. `chart` and tests hold the same list as
access rules: adding a method here means adding a verb there.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from finetune_api.meta import GROUP, VERSION
from finetune_api.v1alpha1.job import NAMES
from finetune_operator.cluster.errors import ApiError, ExpiredError, UnavailableError
from finetune_operator.cluster.transport import Request, Transport
from finetune_operator.observe.facts import Key
from finetune_operator.observe.fields import Body, block, items, number
from finetune_operator.observe.pods import TRAINER
from finetune_operator.plan.names import FIELD_MANAGER

PAGE_SIZE = 500
LIST_ATTEMPTS = 3
LOG_LINES = 200
LOG_BYTES = 1024 * 1024
LOG_SECONDS = 10.0
Manifest = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Listing(Generic[T]):
    """A complete list.

    Attributes:
        items: The objects that are ours to look at, as facts.
        version: Resource version that it was read at.
    """

    items: tuple[T, ...]
    version: int


@dataclass(frozen=True)
class Kind:
    """Where the objects of a kind are found."""

    prefix: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """The path of an object, or of a list of one namespace or (None) of all."""
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.prefix}{scope}/{self.plural}" + (f"/{name}" if name else "")


FINETUNE_JOBS = Kind(f"/apis/{GROUP}/{VERSION}", NAMES["plural"])
JOBS = Kind("/apis/batch/v1", "jobs")
PODS = Kind("/api/v1", "pods")
SERVICES = Kind("/api/v1", "services")
EVENTS = Kind("/api/v1", "events")


class Client:
    """Typed requests over a transport; all errors are `ApiError`s."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """One object."""
        return await self._transport.json(Request("GET", kind.path(namespace, name)))

    async def list_all(
        self,
        kind: Kind,
        read: Callable[[Body], T | None],
        namespace: str | None = None,
        selector: str | None = None,
    ) -> Listing[T]:
        """All objects of a kind, read in pages of one consistent view.

        Args:
            kind: What to list.
            read: Makes facts of an object, or None of one to leave out. Called page by page, for
                thousands of raw objects would take a hundred times the room of their facts.
            namespace: Where; None for everywhere.
            selector: Label selector.
        """
        for _ in range(LIST_ATTEMPTS):
            try:
                return await self._read_pages(kind, read, namespace, selector)
            except ExpiredError:
                # The pages belong to one version; once it is gone, they begin anew.
                continue
        raise UnavailableError(410, "Expired", f"the list of {kind.plural} expired while reading")

    async def _read_pages(
        self,
        kind: Kind,
        read: Callable[[Body], T | None],
        namespace: str | None,
        selector: str | None,
    ) -> Listing[T]:
        found: list[T] = []
        version = 0
        async for page in self._pages(kind, namespace, selector):
            version = number(block(page, "metadata").get("resourceVersion"))
            facts = (read(body) for body in items(page, "items"))
            found += [each for each in facts if each is not None]
        return Listing(tuple(found), version)

    async def list_page(self, kind: Kind, namespace: str | None = None) -> Manifest:
        """One object of a list, if it has any: shows whether the kind is served to us."""
        path = kind.path(namespace)
        return await self._transport.json(Request("GET", path, query={"limit": "1"}))

    async def _pages(
        self, kind: Kind, namespace: str | None, selector: str | None
    ) -> AsyncIterator[Manifest]:
        query = {"limit": str(PAGE_SIZE)} | ({"labelSelector": selector} if selector else {})
        while True:
            request = Request("GET", kind.path(namespace), query=query, timeout=60)
            page = await self._transport.json(request)
            yield page
            token = block(page, "metadata").get("continue")
            if not token:
                return
            query["continue"] = str(token)

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Create an object.

        Raises:
            ConflictError: There is an object of this name.
        """
        path = kind.path(manifest["metadata"]["namespace"])
        query = {"fieldManager": FIELD_MANAGER}
        return await self._transport.json(Request("POST", path, query=query, body=manifest))

    async def delete(self, kind: Kind, namespace: str, name: str, identity: Manifest) -> None:
        """Delete an object, and what it owns before it.

        Args:
            kind: What to delete.
            namespace: Where.
            name: Its name.
            identity: `uid`, and `resourceVersion` where it must not have changed.

        Raises:
            NotFoundError: It is gone.
            ConflictError: It is another one of this name, or has changed.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": identity,
        }
        await self._transport.json(Request("DELETE", kind.path(namespace, name), body=body))

    async def apply_status(
        self, key: Key, identity: Mapping[str, Any], status: Manifest
    ) -> Manifest:
        """Server-side apply of a FineTuneJob's status.

        Args:
            key: The job.
            identity: `uid` and `resourceVersion` that the status was made from.
            status: The whole status; fields that we wrote before and leave out are removed.

        Raises:
            ConflictError: The job has changed, or is another one of the same name.
        """
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": NAMES["kind"],
            "metadata": {"name": key.name, "namespace": key.namespace, **identity},
            "status": status,
        }
        request = Request(
            "PATCH",
            FINETUNE_JOBS.path(key.namespace, key.name) + "/status",
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=body,
            content_type="application/apply-patch+yaml",
        )
        return await self._transport.json(request)

    async def log_tail(self, namespace: str, pod: str) -> str | None:
        """The end of a trainer's log; None if it cannot be read now, which is no error."""
        query = {
            "container": TRAINER,
            "tailLines": str(LOG_LINES),
            "limitBytes": str(LOG_BYTES),
        }
        path = PODS.path(namespace, pod) + "/log"
        try:
            content = await self._transport.send(
                Request("GET", path, query=query, timeout=LOG_SECONDS, attempts=1)
            )
        except ApiError:
            return None
        return content.decode(errors="replace")

    async def warnings(self, namespace: str, uid: str) -> list[Manifest]:
        """The warning events about an object."""
        selector = f"involvedObject.uid={uid},type=Warning"
        query = {"fieldSelector": selector, "limit": "20"}
        page = await self._transport.json(Request("GET", EVENTS.path(namespace), query=query))
        return [dict(each) for each in items(page, "items")]
