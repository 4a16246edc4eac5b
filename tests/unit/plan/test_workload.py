"""The manifests of attempts, compared with reviewed golden files.

`UPDATE_GOLDEN=1 pytest tests/unit/plan` writes them anew; read the difference before committing.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from finetune_api.run_file import RUN_FILE_ANNOTATION, RunFile, volume_variable
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_operator.plan.installation import Installation, with_defaults
from finetune_operator.plan.service import service
from finetune_operator.plan.workload import workload
from support.cluster_objects import job

GOLDEN = Path(__file__).parent / "golden"
PLAIN = Installation(image="registry.example/finetune-trainer:1.0")
WITH_STORE = Installation(
    image="registry.example/finetune-trainer:1.0",
    image_pull_policy="Always",
    image_pull_secrets=("pull-a", "pull-b"),
    endpoint="https://s3.example.com",
    region="eu-west-1",
    credentials_secret="s3-credentials",
    checksums="WhenRequired",
)
FULL = {
    "model.source": "pvc://team.models-v2/llama",
    "data.train": [{"source": "pvc://corpus/a.jsonl"}, {"source": "s3://datasets/b.jsonl"}],
    "data.evaluation": {"sources": [{"source": "pvc://corpus/e.jsonl"}]},
    "resources": {
        "gpusPerNode": 8, "gpuResource": "amd.com/gpu", "cpu": "500m", "memory": "64Gi",
        "sharedMemory": "16Gi", "scratch": "200Gi", "nodes": 2,
    },
    "storage": {
        "endpoint": "https://minio.example", "credentials": {"secretName": "own"},
        "caBundle": {"configMapName": "authorities", "key": "bundle.pem"},
    },
    "scheduling": {
        "priorityClassName": "high", "runtimeClassName": "nvidia", "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["a"]}]}]}}},
    },
    "runPolicy": {"activeDeadlineSeconds": 3600, "terminationGracePeriodSeconds": 120},
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], Installation]] = {
    "minimal": ({}, PLAIN),
    "store-of-the-installation": ({"resources": {"gpusPerNode": 1}}, WITH_STORE),
    "full": (FULL, WITH_STORE),
}


def planned(changes: dict[str, Any], installation: Installation) -> dict[str, Any]:
    facts = job(changes)
    return workload(facts, FineTuneJobSpec.model_validate(facts.spec), installation, 1)


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    [only] = manifest["spec"]["template"]["spec"]["containers"]
    return only


def check(name: str, manifest: dict[str, Any]) -> None:
    stream = io.StringIO()
    YAML().dump(manifest, stream)
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(stream.getvalue())
    assert stream.getvalue() == file.read_text()


@pytest.mark.parametrize("name", CASES)
def test_the_job_is_as_reviewed(name: str) -> None:
    manifest = planned(*CASES[name])
    # The run file has a test of its own, and changes with every default of the API.
    annotations = manifest["spec"]["template"]["metadata"]["annotations"]
    annotations[RUN_FILE_ANNOTATION] = "(the run file)"
    check(name, manifest)


def test_the_service_is_as_reviewed() -> None:
    check("service", service(job(FULL), 1))


@pytest.mark.parametrize("name", CASES)
def test_the_run_file_holds_the_spec_with_the_installations_store(name: str) -> None:
    changes, installation = CASES[name]
    template = planned(changes, installation)["spec"]["template"]
    run = RunFile.model_validate_json(template["metadata"]["annotations"][RUN_FILE_ANNOTATION])
    spec = FineTuneJobSpec.model_validate(job(changes).spec)
    assert run.spec == with_defaults(spec, installation)
    assert (run.job.name, run.attempt) == ("demo", 1)


def test_every_mount_reaches_the_process_by_an_argument_or_a_variable() -> None:
    trainer = container(planned(FULL, WITH_STORE))
    values = [each.get("value", "") for each in trainer["env"]] + trainer["args"]
    for mount in trainer["volumeMounts"]:
        path = mount["mountPath"]
        # /dev/shm is used by the kernel's name, and a node without mounts has one already.
        assert path == "/dev/shm" or any(v == path or v.startswith(f"{path}/") for v in values)


def test_a_claim_is_read_only_and_named_by_its_variable() -> None:
    trainer = container(planned(FULL, WITH_STORE))
    variables = {each["name"]: each.get("value") for each in trainer["env"]}
    mounts = {mount["mountPath"]: mount for mount in trainer["volumeMounts"]}
    for claim in ("team.models-v2", "corpus"):
        assert mounts[variables[volume_variable(claim)]]["readOnly"] is True


def test_nothing_but_the_pods_own_name_comes_from_the_cluster() -> None:
    text = json.dumps(planned(FULL, WITH_STORE))
    assert "secretKeyRef" not in text
    assert "configMapKeyRef" not in text
    assert "hostPath" not in text
    assert text.count("valueFrom") == 1


@pytest.mark.parametrize(
    ("storage", "endpoint", "secret", "checksums"),
    [
        (None, "https://s3.example.com", "s3-credentials", "WhenRequired"),
        ({"credentials": {"secretName": "own"}}, "https://s3.example.com", "own", "WhenRequired"),
        ({"endpoint": "https://own"}, "https://own", "s3-credentials", "WhenSupported"),
    ],
    ids=["no storage", "own credentials", "own endpoint"],
)
def test_absent_storage_fields_come_from_the_installation(
    storage: dict[str, Any] | None, endpoint: str, secret: str, checksums: str
) -> None:
    changes = {"storage": storage} if storage else {}
    spec = with_defaults(FineTuneJobSpec.model_validate(job(changes).spec), WITH_STORE)
    assert spec.storage is not None
    assert spec.storage.credentials is not None
    found = (spec.storage.endpoint, spec.storage.credentials.secret_name, spec.storage.checksums)
    assert found == (endpoint, secret, checksums)
    assert spec.storage.region == "eu-west-1"


def test_without_any_store_the_spec_stays_as_it_is() -> None:
    spec = FineTuneJobSpec.model_validate(job().spec)
    assert with_defaults(spec, PLAIN) == spec
