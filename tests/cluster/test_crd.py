"""The definition on a real API server: accepted without a warning, explained, enforced, waited for."""

import json
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import DevCluster
from support.jobs import manifest
from support.spec_cases import CASES, Case

ROOT = Path(__file__).parents[2]


def apply(cluster: DevCluster, job: dict[str, Any], *flags: str) -> tuple[bool, str]:
    """Whether the API server took the job, and what it said."""
    result = cluster.kubectl("apply", *flags, "-f", "-", stdin=json.dumps(job), check=False)
    return result.returncode == 0, result.stdout + result.stderr


def patch(cluster: DevCluster, name: str, change: dict[str, Any], *flags: str) -> tuple[bool, str]:
    result = cluster.kubectl(
        "patch", "ftj", name, "--type=merge", "-p", json.dumps(change), *flags, check=False
    )
    return result.returncode == 0, result.stdout + result.stderr


def test_the_definition_is_taken_without_a_warning(cluster: DevCluster) -> None:
    for flags in ((), ("--server-side", "--field-manager=test")):
        result = cluster.kubectl("apply", *flags, "-f", str(ROOT / "crds"))
        assert "warning" not in result.stderr.lower()
    crd = cluster.kubectl_json("get", "crd", "finetunejobs.finetune.dev")
    conditions = {c["type"]: c["status"] for c in crd["status"]["conditions"]}
    # NonStructuralSchema would be listed here.
    assert conditions == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_api_server_judges_the_table(cluster: DevCluster, case: Case) -> None:
    job = manifest(case.job_name) | {"spec": case.spec}
    accepted, said = apply(cluster, job, "--dry-run=server")
    assert accepted == case.valid, said
    if case.refusal is not None:
        assert case.refusal in said


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("finetunejob.spec", "tuning"),
        ("finetunejob.spec.tuning.lora.rank", "Rank of the update."),
        ("ftj.spec.method.type", "Distillation"),
        ("ftj.status.progress", "etaSeconds"),
    ],
)
def test_fields_are_explained(cluster: DevCluster, path: str, words: str) -> None:
    assert words in cluster.kubectl("explain", path).stdout


def test_every_field_has_a_description(cluster: DevCluster) -> None:
    text = cluster.kubectl("explain", "ftj", "--recursive").stdout
    assert "<no description>" not in cluster.kubectl("explain", "ftj.spec").stdout
    assert "quantization" in text


@pytest.fixture
def job(cluster: DevCluster) -> Any:
    assert apply(cluster, manifest("changing"))[0]
    yield "changing"
    cluster.kubectl("delete", "ftj", "changing")


def test_defaults_are_visible_after_apply(cluster: DevCluster, job: str) -> None:
    spec = cluster.kubectl_json("get", "ftj", job)["spec"]
    assert spec["tuning"] == {"type": "LoRA"}
    assert spec["training"]["batchSize"] == "Auto"


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"seed": 1}},
        {"tuning": {"type": "Full"}},
        {"storage": {"region": "eu-west-1"}},
        {"scheduling": {"nodeSelector": {"gpu": "h200"}}},
        {"runPolicy": {"activeDeadlineSeconds": 60}},
        {"checkpoints": {"everySteps": 5}},
        {"data": {"evaluation": {"fraction": 0.1}}},
    ],
    ids=str,
)
def test_the_spec_cannot_change(cluster: DevCluster, job: str, change: dict[str, Any]) -> None:
    accepted, said = patch(cluster, job, {"spec": change})
    assert not accepted
    assert "cannot change" in said


@pytest.mark.parametrize(
    "change",
    [
        {"suspend": True},
        {"scheduling": {"priorityClassName": "high"}},
        {"runPolicy": {"ttlSecondsAfterFinished": 60}},
        {"checkpoints": {"keep": 3}},
    ],
    ids=str,
)
def test_suspend_priority_and_retention_may_change(
    cluster: DevCluster, job: str, change: dict[str, Any]
) -> None:
    accepted, said = patch(cluster, job, {"spec": change})
    assert accepted, said


def test_kubectl_wait_sees_the_conditions(cluster: DevCluster, job: str) -> None:
    condition = {
        "type": "Complete", "status": "True", "reason": "OutputPublished", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    accepted, said = patch(
        cluster, job, {"status": {"conditions": [condition]}}, "--subresource=status"
    )
    assert accepted, said
    cluster.kubectl("wait", "--for=condition=Complete", f"finetunejob/{job}", "--timeout=5s")
    failed = cluster.kubectl(
        "wait", "--for=condition=Failed", f"finetunejob/{job}", "--timeout=1s", check=False
    )
    assert failed.returncode != 0


def test_the_columns_show_method_tuning_model_and_state(cluster: DevCluster, job: str) -> None:
    header, row = cluster.kubectl("get", "ftj", job).stdout.splitlines()
    assert header.split() == [
        "NAME", "METHOD", "TUNING", "MODEL", "STATE", "PROGRESS", "LOSS", "ETA", "AGE",
    ]  # fmt: skip
    assert row.split()[:4] == [job, "SFT", "LoRA", "s3://models/base"]
    wide = cluster.kubectl("get", "ftj", job, "-o", "wide").stdout.splitlines()[0]
    assert wide.split()[-4:] == ["NODES", "GPUS", "OUTPUT", "REASON"]
