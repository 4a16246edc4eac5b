"""What the chart renders: images, rights, the definition, and a pod that may do little."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from support.chart import (
    CHART,
    NAMESPACE,
    Account,
    find,
    operator_environment,
    pod_spec,
    render,
    service_account,
)

PREFIX = "FINETUNE_OPERATOR_"
FULL = CHART / "ci/full-values.yaml"
NAMESPACED = CHART / "ci/namespaced-values.yaml"
DIGEST = "sha256:" + "a" * 64
DEFINITION = CHART.parents[1] / "crds/finetunejobs.yaml"

# Every right of the operator, by hand: API group/resource -> verbs.
RIGHTS = {
    "finetune.dev/finetunejobs": {"get", "list", "watch", "delete"},
    "finetune.dev/finetunejobs/status": {"patch"},
    "finetune.dev/finetunejobs/finalizers": {"update"},
    "batch/jobs": {"get", "list", "watch", "create", "delete"},
    "/pods": {"list", "watch"},
    "/pods/log": {"get"},
    "/services": {"create"},
    "/events": {"create", "list"},
}


def rights(role: dict[str, Any]) -> dict[str, set[str]]:
    return {
        f"{group}/{resource}": set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def operator_roles(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    roles = [each for each in manifests if each["kind"] == kind]
    return [each for each in roles if not aggregation(each)]


def aggregation(role: dict[str, Any]) -> set[str]:
    labels = role["metadata"]["labels"]
    return {key.rpartition("-")[2] for key in labels if "/aggregate-to-" in key}


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "finetune-operator:0.1.0"),
        ({"tag": "main"}, "finetune-operator:main"),
        ({"tag": "main", "digest": DIGEST}, f"finetune-operator@{DIGEST}"),
        ({"registry": "r.example.com/x"}, "r.example.com/x/finetune-operator:0.1.0"),
        ({"registry": "r.example.com/x/"}, "r.example.com/x/finetune-operator:0.1.0"),
    ],
)
def test_image_reference(image: dict[str, str], reference: str) -> None:
    manifests = render({"image": image, "trainer": {"image": image | {"repository": "trainer"}}})
    assert pod_spec(manifests)["containers"][0]["image"] == reference
    trainer = operator_environment(manifests)[PREFIX + "TRAINER_IMAGE"]
    assert trainer == reference.replace("finetune-operator", "trainer")


def test_rights_in_the_whole_cluster() -> None:
    manifests = render()
    [role] = operator_roles(manifests, "ClusterRole")
    assert rights(role) == RIGHTS
    assert not operator_roles(manifests, "Role")
    binding = find(manifests, "ClusterRoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = service_account(manifests)
    assert account == Account(NAMESPACE, find(manifests, "ServiceAccount")["metadata"]["name"])
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account.name, "namespace": NAMESPACE}
    ]


def test_rights_in_listed_namespaces_only() -> None:
    manifests = render(files=[NAMESPACED])
    roles = operator_roles(manifests, "Role")
    assert {role["metadata"]["namespace"]: rights(role) for role in roles} == {
        "team-a": RIGHTS,
        "team-b": RIGHTS,
    }
    bindings = [each for each in manifests if each["kind"] == "RoleBinding"]
    assert {each["metadata"]["namespace"] for each in bindings} == {"team-a", "team-b"}
    assert all(each["subjects"][0]["namespace"] == NAMESPACE for each in bindings)
    assert not [each for each in manifests if each["kind"].startswith("ClusterRole")]


def test_user_roles_add_to_the_clusters_own() -> None:
    roles = {each["metadata"]["name"]: each for each in render() if each["kind"] == "ClusterRole"}
    read = {"get", "list", "watch"}
    write = read | {"create", "update", "patch", "delete"}
    expected = {
        "viewer": (read, {"view", "edit", "admin"}),
        "editor": (write, {"edit", "admin"}),
        "admin": (write | {"deletecollection"}, {"admin"}),
    }
    for name, (verbs, into) in expected.items():
        role = roles[f"finetune-operator-{name}"]
        assert aggregation(role) == into
        assert rights(role) == {
            "finetune.dev/finetunejobs": verbs,
            "finetune.dev/finetunejobs/status": {"get"},
        }


def test_definition_is_the_one_of_the_api() -> None:
    wanted = YAML(typ="safe", pure=True).load(DEFINITION.read_text())
    definition = find(render(), "CustomResourceDefinition")
    assert definition["spec"] == wanted["spec"]
    assert definition["metadata"]["name"] == wanted["metadata"]["name"]
    assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_definition_can_go_with_the_release_or_be_left_out() -> None:
    leaving = find(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert "annotations" not in leaving["metadata"]
    assert "CustomResourceDefinition" not in {
        each["kind"] for each in render({"crds": {"enabled": False}})
    }


def test_own_identity_and_rights() -> None:
    manifests = render(files=[CHART / "ci/own-identity-values.yaml"])
    assert service_account(manifests) == Account(NAMESPACE, "finetune")
    kinds = {each["kind"] for each in manifests}
    assert kinds == {"Deployment", "ClusterRole"}
    assert not operator_roles(manifests, "ClusterRole")


def test_two_releases_share_no_name() -> None:
    quiet = {"crds": {"enabled": False}}
    names = [
        {(each["kind"], each["metadata"]["name"]) for each in render(quiet, release=release)}
        for release in ("one", "two")
    ]
    assert names[0]
    assert not names[0] & names[1]


def test_pod_labels_do_not_replace_the_selector() -> None:
    deployment = find(render(files=[FULL]), "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["example.com/tier"] == "control"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["replicas"] == 1


def test_probes_ask_the_port_of_the_settings() -> None:
    manifests = render({"operator": {"healthPort": 9090}})
    [container] = pod_spec(manifests)["containers"]
    [port] = container["ports"]
    assert str(port["containerPort"]) == operator_environment(manifests)[PREFIX + "HEALTH_PORT"]
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}
