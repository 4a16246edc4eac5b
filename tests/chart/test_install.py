"""Install, upgrade and uninstall on a real API server: what is made, what it may do, what is left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from devcluster.cluster import DevCluster
from support.chart import (
    NAMESPACE,
    HelmError,
    find,
    install,
    service_account,
    uninstall,
)
from support.jobs import manifest

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
CRD = "customresourcedefinition/finetunejobs.finetune.dev"
IDENTITY = ("apiVersion", "kind")


@pytest.fixture
def namespace(cluster: DevCluster) -> str:
    """The operator's namespace, which refuses any pod that is not restricted."""
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": RESTRICTED},
        }
    )
    return NAMESPACE


@contextmanager
def installed(cluster: DevCluster, values: dict[str, Any] | None = None) -> Iterator[list[Any]]:
    manifests = install(cluster, values)
    try:
        yield manifests
    finally:
        uninstall(cluster)


def may(cluster: DevCluster, user: str, *question: str) -> bool:
    answer = cluster.kubectl("auth", "can-i", *question, f"--as={user}", check=False)
    assert answer.stdout.strip() in ("yes", "no"), answer.stderr
    return answer.stdout.strip() == "yes"


def eventually(check: Any, seconds: float = 30) -> Any:
    """Waits for the first true answer; the last one otherwise."""
    deadline = time.monotonic() + seconds
    while not (answer := check()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


def exists(cluster: DevCluster, *what: str) -> bool:
    return bool(cluster.kubectl("get", *what, "--ignore-not-found", "-o", "name").stdout.strip())


def test_install_makes_everything_and_the_pod_passes_restricted(
    cluster: DevCluster, namespace: str
) -> None:
    with installed(cluster) as manifests:
        for each in manifests:
            live = cluster.kubectl_json(
                "get", each["kind"], each["metadata"]["name"], "-n", namespace
            )
            assert [live[key] for key in IDENTITY] == [each[key] for key in IDENTITY]
        # The API server's admission refuses pods that are not restricted; a ReplicaSet then has none.
        pods = eventually(lambda: cluster.kubectl_json("get", "pods", "-n", namespace)["items"])
        assert len(pods) == 1, cluster.kubectl("get", "events", "-n", namespace).stdout
        assert pods[0]["spec"]["serviceAccountName"] == service_account(manifests).name
        cluster.kubectl("wait", "--for=condition=Established", CRD)
        cluster.apply(manifest("after-install"))
        cluster.kubectl("delete", "finetunejob", "after-install")


def test_rights_hold_and_end_where_they_should(cluster: DevCluster, namespace: str) -> None:
    with installed(cluster) as manifests:
        user = service_account(manifests).user
        allowed = [
            ("watch", "finetunejobs.finetune.dev", "-A"),
            ("patch", "finetunejobs.finetune.dev/x", "--subresource=status"),
            ("create", "jobs.batch"),
            ("get", "pods/x", "--subresource=log"),
            ("create", "events"),
            # The gang of an attempt that ended, and jobs whose time to live is over.
            ("delete", "jobs.batch"),
            ("delete", "finetunejobs.finetune.dev"),
        ]
        refused = [
            ("get", "secrets"),
            ("list", "configmaps"),
            ("create", "pods"),
            ("create", "pods/x", "--subresource=exec"),
            ("patch", "finetunejobs.finetune.dev"),
            ("deletecollection", "finetunejobs.finetune.dev"),
            ("delete", "pods"),
            ("deletecollection", "jobs.batch"),
            ("create", "serviceaccounts"),
            ("create", "rolebindings.rbac.authorization.k8s.io"),
            ("list", "nodes"),
        ]
        assert [each for each in allowed if not may(cluster, user, *each)] == []
        assert [each for each in refused if may(cluster, user, *each)] == []


def test_listed_namespaces_are_the_only_ones(cluster: DevCluster, namespace: str) -> None:
    cluster.apply(
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}} for n in ("in", "out"))
    )
    with installed(cluster, {"watchNamespaces": ["in"]}) as manifests:
        user = service_account(manifests).user
        question = ("create", "jobs.batch")
        assert may(cluster, user, *question, "-n", "in")
        assert not may(cluster, user, *question, "-n", "out")
        assert not may(cluster, user, "list", "finetunejobs.finetune.dev", "-A")


def test_users_get_the_jobs_with_the_clusters_own_roles(
    cluster: DevCluster, namespace: str
) -> None:
    def resources(role: str) -> list[str]:
        rules = cluster.kubectl_json("get", "clusterrole", role)["rules"]
        return [name for rule in rules if "create" in rule["verbs"] for name in rule["resources"]]

    with installed(cluster):
        assert eventually(lambda: "finetunejobs" in resources("edit"))
        assert "finetunejobs" not in resources("view")


def test_upgrade_changes_and_uninstall_keeps_definition_and_jobs(
    cluster: DevCluster, namespace: str
) -> None:
    with installed(cluster):
        cluster.apply(manifest("kept"))
        uid = cluster.kubectl_json("get", CRD)["metadata"]["uid"]
        upgraded = install(cluster, {"operator": {"workers": 3}})
        live = cluster.kubectl_json(
            "get", "deployment", find(upgraded, "Deployment")["metadata"]["name"], "-n", namespace
        )
        [container] = live["spec"]["template"]["spec"]["containers"]
        assert {"name": "FINETUNE_OPERATOR_WORKERS", "value": "3"} in container["env"]
    assert not exists(cluster, "deployment", "-n", namespace)
    assert not exists(cluster, "clusterrole", "-l", "app.kubernetes.io/instance=finetune-operator")
    assert exists(cluster, "finetunejob", "kept")
    with installed(cluster):
        assert cluster.kubectl_json("get", CRD)["metadata"]["uid"] == uid
        assert exists(cluster, "finetunejob", "kept")
        cluster.kubectl("delete", "finetunejob", "kept")


def test_a_release_of_another_name_does_not_take_the_definition_over(
    cluster: DevCluster, namespace: str
) -> None:
    with installed(cluster):
        with pytest.raises(HelmError, match=r"finetunejobs\.finetune\.dev"):
            install(cluster, release="second", namespace="second")
        install(cluster, {"crds": {"enabled": False}}, release="third", namespace="third")
        uninstall(cluster, release="third", namespace="third")


def test_definition_goes_where_it_is_not_kept(cluster: DevCluster, namespace: str) -> None:
    with installed(cluster, {"crds": {"keep": False}}):
        assert exists(cluster, CRD)
    assert eventually(lambda: not exists(cluster, CRD))
