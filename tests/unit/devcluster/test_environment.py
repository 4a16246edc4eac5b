"""Does a container get the variables, arguments and paths that Kubernetes promises?"""

from pathlib import Path

import pytest

from devcluster import environment as env
from devcluster.errors import NotReadyError

POD = {
    "metadata": {
        "name": "p",
        "namespace": "ns",
        "uid": "u-1",
        "labels": {"app": "x"},
        "annotations": {"finetune.dev/run-file": "{}", "b": "2"},
    },
    "spec": {"nodeName": "node-0", "subdomain": "job-a"},
}
MOUNTS = {"/data": Path("/local/data"), "/data/deep": Path("/data/elsewhere"), "/run": Path("/r")}


class FakeSources:
    def __init__(self, **objects):
        self.objects = objects

    async def read(self, kind, name):
        return self.objects.get(f"{kind}_{name}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data", "/local/data"),
        ("/data/x", "/local/data/x"),
        ("/data/deep/x", "/data/elsewhere/x"),  # the longest wins, and is not rewritten again
        ("--out=/data/x", "--out=/local/data/x"),
        ('cat "/data/x" >/run/y', 'cat "/local/data/x" >/r/y'),
        ('{"path": "/data"}', '{"path": "/local/data"}'),
        ("/data:/run", "/local/data:/r"),
        ("/database", "/database"),
        ("/mnt/data", "/mnt/data"),
        ("s3://bucket/data/x", "s3://bucket/data/x"),
        ("", ""),
    ],
)
def test_rewrite(value, expected):
    assert env.rewrite(value, MOUNTS) == expected


def test_rewrite_without_mounts_changes_nothing():
    assert env.rewrite("/data and more", {}) == "/data and more"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("$(A)-$(A)", "1-1"),
        ("$$(A)", "$(A)"),
        ("$(MISSING)", "$(MISSING)"),
        ("$A ${A} $(A", "$A ${A} $(A"),
    ],
)
def test_expand(value, expected):
    assert env.expand(value, {"A": "1"}) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "p"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "x"),
        ("metadata.annotations['finetune.dev/run-file']", "{}"),
        ("metadata.annotations['absent']", ""),
        ("metadata.annotations", 'b="2"\nfinetune.dev/run-file="{}"'),
        ("spec.nodeName", "node-0"),
        ("status.podIP", "127.0.0.1"),
    ],
)
def test_field(path, expected):
    assert env.field(POD, path) == expected


def test_unknown_field_is_refused():
    with pytest.raises(NotReadyError, match=r"status\.phase"):
        env.field(POD, "status.phase")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("job-a-0.job-a", "127.0.0.1"),
        ("tcp://job-a-0.job-a.ns.svc.cluster.local:29500", "tcp://127.0.0.1:29500"),
        ("job-a-0.job-a:29500", "127.0.0.1:29500"),
        ("job-a-0.job-ab", "job-a-0.job-ab"),
        ("example.com", "example.com"),
    ],
)
def test_peers_of_the_headless_service_are_local(value, expected):
    assert env.resolve_peers(value, POD) == expected


async def test_environment_in_order():
    sources = FakeSources(secret_s={"k": b"v"}, configmap_c={"A": b"1", "not a name": b"2"})
    container = {
        "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "P_"}],
        "env": [
            {"name": "LITERAL", "value": "$(P_A)!"},
            {"name": "LATER", "value": "$(SECRET)"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {
                "name": "GONE",
                "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}},
            },
        ],
    }
    assert await env.environment(POD, container, sources) == {
        "P_A": "1",
        "LITERAL": "1!",
        "LATER": "$(SECRET)",
        "SECRET": "v",
        "POD": "p",
    }


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"secretKeyRef": {"name": "none", "key": "k"}}, 'secret "none" not found'),
        ({"secretKeyRef": {"name": "s", "key": "z"}}, "couldn't find key z in secret s"),
        ({"resourceFieldRef": {}}, "does not support resourceFieldRef"),
    ],
)
async def test_what_a_variable_lacks(reference, message):
    container = {"env": [{"name": "X", "valueFrom": reference}]}
    with pytest.raises(NotReadyError, match=message) as caught:
        await env.environment(POD, container, FakeSources(secret_s={"k": b"v"}))
    assert caught.value.reason == "CreateContainerConfigError"


def test_argv():
    assert env.argv({"args": ["$(A)"]}, ["image"], {"A": "1"}) == ["image", "1"]
    assert env.argv({"command": ["c"], "args": ["a"]}, ["image"], {}) == ["c", "a"]


@pytest.mark.parametrize(
    "image", ["trainer", "reg:5000/a/trainer:v1", "a/trainer@sha256:00", "trainer:v1@sha256:00"]
)
def test_image_command(image):
    assert env.image_command(image, {"trainer": ["run"]}) == ["run"]
    assert env.image_command(image, {"other": ["run"]}) is None
