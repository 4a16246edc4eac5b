"""A user of a running installation: applies jobs in a namespace, waits, looks at what became of them.

Used by e2e tests; everything goes through kubectl and the S3 store.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.jobs import manifest
from support.stack import BUCKET, Stack

Object = dict[str, Any]
TINY_SPEC: Object = {
    "model.source": f"s3://{BUCKET}/models/tiny",
    "data.train": [{"source": f"s3://{BUCKET}/data/train.jsonl"}],
    "data.evaluation": {"sources": [{"source": f"s3://{BUCKET}/data/evaluation.jsonl"}]},
    "training": {"maxSteps": 20, "batchSize": 8, "learningRate": 1e-2},
}


@dataclass(frozen=True)
class Tenant:
    """One namespace with credentials."""

    stack: Stack
    namespace: str

    def manifest(self, name: str, changes: Object | None = None) -> Object:
        """A job on the tiny model, with `changes` at dotted paths below its spec."""
        output = {"output.uri": f"s3://{BUCKET}/outputs/{name}"}
        return manifest(name, {**TINY_SPEC, **output, **(changes or {})}, namespace=self.namespace)

    def apply(self, name: str, changes: Object | None = None) -> None:
        """Applies such a job."""
        body = json.dumps(self.manifest(name, changes))
        self.stack.cluster.kubectl("apply", "-f", "-", stdin=body)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints in this namespace; raises when it fails."""
        return self.stack.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin).stdout

    def delete(self, name: str) -> None:
        """Deletes a job without waiting for its children."""
        self.kubectl("delete", "ftj", name, "--wait=false")

    def evict(self, pod: str) -> None:
        """Asks for a pod's eviction, as `kubectl drain` does."""
        meta = {"name": pod, "namespace": self.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))

    def get(self, kind: str, *arguments: str) -> Any:
        """An object or a list, as kubectl has it."""
        return self.stack.cluster.kubectl_json("get", kind, *arguments, "-n", self.namespace)

    def status(self, name: str) -> Object:
        """The status of a job; empty before the operator has seen it."""
        found: Object = self.get("ftj", name).get("status") or {}
        return found

    def children(self, kind: str, name: str) -> list[Object]:
        """Jobs or pods of a job."""
        items: list[Object] = self.get(kind, "-l", f"finetune.dev/job={name}")["items"]
        return items

    def events(self, name: str) -> list[tuple[str, str]]:
        """Type and reason of the Events about a job."""
        found = self.get("events", f"--field-selector=involvedObject.name={name}")["items"]
        return [(event["type"], event["reason"]) for event in found]

    def wait(self, name: str, condition: str, seconds: float = 180) -> Object:
        """The status once a condition is true.

        Raises:
            AssertionError: The job ended otherwise, or the time is over; says what its status is.
        """

        def ended() -> Object | None:
            status = self.status(name)
            state = conditions(status)
            if state.get(condition) == "True":
                return status
            other = {"Complete": "Failed", "Failed": "Complete"}.get(condition, "Failed")
            assert state.get(other) != "True", json.dumps(status, indent=1)
            return None

        return until(ended, seconds, lambda: json.dumps(self.status(name), indent=1))

    def download(self, uri: str, folder: Path) -> Path:
        """Downloads a prefix of the store."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        client = self.stack.s3.client()
        listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix.rstrip("/") + "/")
        for entry in listed.get("Contents", ()):
            path = folder / entry["Key"].removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, entry["Key"], str(path))
        return folder


def conditions(status: Object) -> dict[str, str]:
    """Status of each condition, by type."""
    return {c["type"]: c["status"] for c in status.get("conditions", ())}


def until(
    question: Callable[[], Any], seconds: float = 30, explain: Callable[[], str] = str
) -> Any:
    """The first answer that is not None.

    Raises:
        AssertionError: There was none in time.
    """
    deadline = time.monotonic() + seconds
    while (answer := question()) is None:
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {explain()}"
        time.sleep(0.2)
    return answer
