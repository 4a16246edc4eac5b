"""The API server as the plugin needs it: read jobs, follow one, read a pod's log.

Used by `__main__` through `Cluster`; the only speaker of HTTP here. Objects stay raw mappings, so that
the plugin needs no definition of its own. The one thing that it writes is `spec.suspend`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config, watch

from finetune_api.meta import GROUP, VERSION
from finetune_api.v1alpha1.job import NAMES
from kubectl_finetune.errors import PluginError
from kubectl_finetune.job import Block, Job

KIND = {"group": GROUP, "version": VERSION, "plural": NAMES["plural"]}
# A watch is asked for this long at a time: a connection that died silently is noticed by then.
WATCH_SECONDS = 60
RETRY_SECONDS = 2.0
# To connect, and between two pieces of an answer.
PATIENCE = (10, 30)


@dataclass(frozen=True)
class Cluster:
    """One cluster, through one context of a kubeconfig."""

    api: Any
    namespace: str

    @classmethod
    def connect(cls, kubeconfig: str | None, context: str | None) -> "Cluster":
        """Reads the kubeconfig; no request is made yet.

        Raises:
            PluginError: There is no kubeconfig, or it lacks the context.
        """
        try:
            contexts, current = config.list_kube_config_contexts(kubeconfig)
            api = config.new_client_from_config(kubeconfig, context)
        except (config.ConfigException, OSError) as error:
            raise PluginError(
                f"the kubeconfig cannot be used: {error}",
                "check --kubeconfig, --context and $KUBECONFIG; `kubectl config get-contexts`",
            ) from None
        chosen = next((each for each in contexts if each["name"] == context), current)
        return cls(api, Block(chosen).text("context.namespace") or "default")

    def job(self, namespace: str, name: str) -> Job:
        """One job.

        Raises:
            PluginError: There is none of that name, or it may not be read.
        """
        with explained(f"job {namespace}/{name}"):
            return Job(
                self._jobs.get_namespaced_custom_object(
                    **KIND, namespace=namespace, name=name, _request_timeout=PATIENCE
                )
            )

    def jobs(self, namespace: str | None) -> list[Job]:
        """All jobs of a namespace, or of all namespaces."""
        with explained("jobs"):
            if namespace is None:
                found = self._jobs.list_cluster_custom_object(**KIND, _request_timeout=PATIENCE)
            else:
                found = self._jobs.list_namespaced_custom_object(
                    **KIND, namespace=namespace, _request_timeout=PATIENCE
                )
        return [Job(each) for each in found["items"]]

    def suspend(self, namespace: str, name: str, suspended: bool) -> Job:
        """Sets `spec.suspend`; returns the job as it is then.

        Raises:
            PluginError: There is none of that name, or it may not be changed.
        """
        with explained(f"job {namespace}/{name}"):
            return Job(
                self._jobs.patch_namespaced_custom_object(
                    **KIND,
                    namespace=namespace,
                    name=name,
                    body={"spec": {"suspend": suspended}},
                    _content_type="application/merge-patch+json",
                    _request_timeout=PATIENCE,
                )
            )

    def follow(self, namespace: str, name: str, deadline: float | None = None) -> Iterator[Job]:
        """Yields a job as it is now and at each change, until it ends or the deadline passes.

        Args:
            namespace: Namespace of the job.
            name: Its name.
            deadline: On the clock of `time.monotonic`; None waits as long as it takes.
        """
        job = self.job(namespace, name)
        yield job
        while not job.outcome and (deadline is None or time.monotonic() < deadline):
            for change in self._changes(job, deadline):
                yield change
                if change.outcome:
                    return
            job = self._again(job, deadline)
            yield job

    def _changes(self, job: Job, deadline: float | None) -> Iterator[Job]:
        """One watch: ends when the server closes it, when the connection breaks or at the deadline."""
        left = WATCH_SECONDS if deadline is None else deadline - time.monotonic()
        asked = {
            **KIND,
            "namespace": job.namespace,
            "field_selector": f"metadata.name={job.name}",
            "resource_version": job.text("metadata.resourceVersion"),
            "timeout_seconds": max(1, min(WATCH_SECONDS, int(left))),
            "_request_timeout": (10, WATCH_SECONDS + 10),
        }
        try:
            for event in watch.Watch().stream(self._jobs.list_namespaced_custom_object, **asked):
                if event["type"] == "DELETED":
                    raise PluginError(f"job {job.namespace}/{job.name} was deleted")
                yield Job(event["object"])
        except (client.ApiException, urllib3.exceptions.HTTPError):
            time.sleep(RETRY_SECONDS)

    def _again(self, job: Job, deadline: float | None) -> Job:
        """Reads the job anew; an API server that is away for a while is waited for."""
        while True:
            try:
                return self.job(job.namespace, job.name)
            except UnreachableError:
                if deadline is not None and time.monotonic() > deadline:
                    return job
                time.sleep(RETRY_SECONDS)

    def rank_zero(self, namespace: str, name: str) -> Block:
        """The pod of rank 0 of the newest attempt, or that of its preflight until there is one.

        Raises:
            PluginError: The job has no pod (yet, or any more).
        """
        self.job(namespace, name)
        selector = f"{GROUP}/job={name}"
        with explained(f"pods of {namespace}/{name}"):
            pods = self._core.list_namespaced_pod(
                namespace, label_selector=selector, _request_timeout=PATIENCE
            )
        found = [Block(self.api.sanitize_for_serialization(pod)) for pod in pods.items]
        if not found:
            hint = f"kubectl finetune status {name} -n {namespace}"
            raise PluginError(f"job {namespace}/{name} has no pod", hint)
        return max(found, key=newest_rank_zero)

    def log(self, pod: Block, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        """Yields a pod's log in pieces; with `follow`, until its container ends."""
        name, namespace = pod.text("metadata.name"), pod.text("metadata.namespace")
        with explained(f"log of pod {namespace}/{name}"):
            answer = self._core.read_namespaced_pod_log(
                name,
                namespace,
                container="trainer",
                follow=follow,
                **({} if tail is None else {"tail_lines": tail}),
                _preload_content=False,
            )
            yield from answer.stream()

    def started(self, pod: Block) -> bool:
        """Whether the pod's container has run, so that there is a log."""
        with explained("pod"):
            name, namespace = pod.text("metadata.name"), pod.text("metadata.namespace")
            found = self._core.read_namespaced_pod(name, namespace, _request_timeout=PATIENCE)
        return found.status.phase not in (None, "Pending")

    @property
    def _jobs(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.api)

    @property
    def _core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.api)


class UnreachableError(PluginError):
    """The API server does not answer."""


def newest_rank_zero(pod: Block) -> tuple[int, bool, str]:
    """Sort key: the highest attempt, in it rank 0, of several the youngest."""
    labels = pod.raw.get("metadata", {}).get("labels") or {}
    attempt = str(labels.get(f"{GROUP}/attempt", ""))
    rank = labels.get("batch.kubernetes.io/job-completion-index")
    created = pod.text("metadata.creationTimestamp") or ""
    return int(attempt) if attempt.isdecimal() else 0, rank == "0", created


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns the client's errors into sentences."""
    try:
        yield
    except client.ApiException as error:
        raise refusal(what, error.status or 0, error.reason or "") from None
    except urllib3.exceptions.HTTPError as error:
        raise UnreachableError(
            f"the API server does not answer: {getattr(error, 'reason', error)}",
            "try `kubectl cluster-info`",
        ) from None


def refusal(what: str, status: int, reason: str) -> PluginError:
    """The sentence for an HTTP status of the API server."""
    if status == 404:
        return PluginError(
            f"{what} not found",
            "`kubectl finetune list -A` shows all jobs; without the definition there are none",
        )
    if status in (401, 403):
        hint = "ask for the role finetune-viewer (finetune-editor to change one), or log in again"
        return PluginError(f"{what}: {reason}", hint)
    if status >= 500 or status == 429:
        return UnreachableError(f"{what}: the API server answered {status} {reason}")
    return PluginError(f"{what}: {status} {reason}")
