"""The Helm chart for tests: renders it, reads what it renders, installs it into a cluster.

Chart tests use all of it; e2e tests use `install`, `operator_environment` and `service_account`, to
run the operator's process with the settings and the rights that users get, and no others.
"""

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from devcluster.binaries import tool
from devcluster.cluster import DevCluster

CHART = Path(__file__).parents[2] / "helm/finetune-operator"
RELEASE = "finetune-operator"
NAMESPACE = "finetune-system"
Manifest = dict[str, Any]


class HelmError(RuntimeError):
    """Helm refused; the message is its own."""


@dataclass(frozen=True)
class Account:
    """A service account: where it is and what it is called."""

    namespace: str
    name: str

    @property
    def user(self) -> str:
        """Its name as the API server's authorizer and audit log write it."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"


def helm(*args: str | Path, values: Mapping[str, Any] | None = None) -> str:
    """Runs Helm and returns what it printed.

    Args:
        args: The command line; the chart's own values files are given here with `-f`.
        values: More values, laid over the others.

    Raises:
        HelmError: When Helm exits with an error.
    """
    given = ["-f", "-"] if values is not None else []
    argv = [str(word) for word in (tool("helm"), *args, *given)]
    done = subprocess.run(
        argv, input=json.dumps(values or {}), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise HelmError(f"{done.stdout}\n{done.stderr}".strip())
    return done.stdout


def documents(text: str) -> list[Manifest]:
    """The documents of a YAML stream, without empty ones."""
    return [each for each in YAML(typ="safe", pure=True).load_all(text) if each]


def render(
    values: Mapping[str, Any] | None = None,
    *,
    files: Sequence[Path] = (),
    release: str = RELEASE,
    namespace: str = NAMESPACE,
) -> list[Manifest]:
    """The objects that the chart makes of these values."""
    return documents(template(values, files=files, release=release, namespace=namespace))


def template(
    values: Mapping[str, Any] | None = None,
    *,
    files: Sequence[Path] = (),
    release: str = RELEASE,
    namespace: str = NAMESPACE,
) -> str:
    """The same as the YAML text that Helm writes."""
    given = [word for file in files for word in ("-f", file)]
    return helm("template", release, CHART, "-n", namespace, *given, values=values or {})


def find(manifests: Iterable[Manifest], kind: str) -> Manifest:
    """The one object of a kind; raises when there is none or more than one."""
    [found] = [each for each in manifests if each["kind"] == kind]
    return found


def operator_environment(manifests: Iterable[Manifest]) -> dict[str, str]:
    """The environment that the chart gives the operator's container."""
    [container] = pod_spec(manifests)["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"]}


def pod_spec(manifests: Iterable[Manifest]) -> Manifest:
    """The pod spec of the operator's Deployment."""
    spec: Manifest = find(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def service_account(manifests: Iterable[Manifest]) -> Account:
    """The service account that the operator's pod runs as."""
    deployment = find(manifests, "Deployment")
    name = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    return Account(deployment["metadata"]["namespace"], name)


def install(
    cluster: DevCluster,
    values: Mapping[str, Any] | None = None,
    *,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
) -> list[Manifest]:
    """Installs the chart into a cluster, or upgrades the release; returns its objects.

    The Deployment's pod starts only where the node has the operator's image.
    """
    where = ("--namespace", namespace, "--create-namespace", "--kubeconfig", cluster.kubeconfig)
    helm("upgrade", "--install", release, CHART, *where, values=values or {})
    shown = helm("get", "manifest", release, "-n", namespace, "--kubeconfig", cluster.kubeconfig)
    return documents(shown)


def uninstall(cluster: DevCluster, *, release: str = RELEASE, namespace: str = NAMESPACE) -> None:
    """Removes the release and waits until its objects are gone."""
    where = ("--namespace", namespace, "--kubeconfig", cluster.kubeconfig)
    helm("uninstall", release, *where, "--wait")
