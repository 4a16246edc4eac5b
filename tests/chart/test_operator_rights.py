"""The operator runs with the settings and the rights of the chart, and is refused nothing.

It runs as a process of this machine, with a token of the chart's service account. The trainer is the
real one too; its store does not answer, so that a job goes the long way through a failure.
"""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import DevCluster
from devcluster.ports import free_ports
from support.chart import install, operator_environment, service_account, uninstall
from support.jobs import manifest

SCRIPTS = Path(sys.executable).parent
TEAM = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
CREDENTIALS = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "s3", "namespace": "team"},
    "stringData": {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
}
# What every life of a failing job asks for; watches are not in the audit log.
USED = {
    ("list", "finetunejobs", ""),
    ("patch", "finetunejobs", "status"),
    ("list", "jobs", ""),
    ("create", "jobs", ""),
    ("list", "pods", ""),
    ("get", "pods", "log"),
    ("create", "events", ""),
}


@contextmanager
def operator(environment: Mapping[str, str], kubeconfig: Path, log: Path) -> Iterator[None]:
    variables = os.environ | dict(environment) | {"KUBECONFIG": str(kubeconfig)}
    with log.open("w") as file:
        process = subprocess.Popen(
            [SCRIPTS / "finetune-operator"], env=variables, stdout=file, stderr=file
        )
        try:
            yield
            assert process.poll() is None, log.read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def refusals(cluster: DevCluster, user: str, since: int) -> list[Any]:
    events = cluster.audit.events(user, since)
    return [e["requestURI"] for e in events if e["responseStatus"]["code"] in (401, 403)]


@pytest.mark.parametrize("namespaces", [[], ["team"]], ids=["cluster", "namespaces"])
def test_operator_is_refused_nothing(
    cluster: DevCluster, namespaces: list[str], tmp_path: Path
) -> None:
    [health, closed] = free_ports(2)
    # A name of its own: a job must wait until the children of a deleted namesake are gone.
    name = f"unlucky-{len(namespaces)}"
    cluster.add_images({"finetune-trainer": [str(SCRIPTS / "finetune-trainer")]})
    cluster.apply(TEAM, CREDENTIALS)
    values = {
        "watchNamespaces": namespaces,
        "operator": {"healthPort": health, "statusIntervalSeconds": 1},
        "storage": {"endpoint": f"http://127.0.0.1:{closed}", "credentialsSecret": "s3"},
    }
    manifests = install(cluster, values)
    account, since, log = service_account(manifests), cluster.audit.mark(), tmp_path / "log"
    kubeconfig = cluster.kubeconfig_for_service_account(account.namespace, account.name)
    try:
        with operator(operator_environment(manifests), kubeconfig, log):
            once = {"runPolicy.retries": {"infrastructure": 0}}
            cluster.apply(manifest(name, once, namespace="team"))
            wait = ("wait", "--for=condition=Failed", f"finetunejob/{name}", "--timeout=120s")
            assert cluster.kubectl(*wait, "-n", "team", check=False).returncode == 0, (
                log.read_text()
            )
            probe = f"http://127.0.0.1:{health}/healthz"
            with urllib.request.urlopen(probe, timeout=5) as answer:
                assert answer.status == 200
        assert refusals(cluster, account.user, since) == []
        assert "forbidden" not in log.read_text().lower()
        asked = {each[:3] for each in cluster.audit.requests(account.user, since)}
        assert asked >= USED
    finally:
        cluster.kubectl("delete", "finetunejob", name, "-n", "team", "--ignore-not-found")
        uninstall(cluster)
