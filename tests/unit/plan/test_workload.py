"""The manifests of attempts, compared with reviewed golden files.

`UPDATE_GOLDEN=1 pytest tests/unit/plan` writes them anew; read the difference before committing.
"""

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from finetune_api.run_file import (
    HUB_DATA_CREDENTIALS,
    HUB_MODEL_CREDENTIALS,
    RUN_FILE_ANNOTATION,
    RunFile,
    volume_variable,
)
from finetune_api.v1alpha1.job import MAX_NAME_LENGTH, FineTuneJobSpec
from finetune_operator.observe.facts import Role
from finetune_operator.plan import names
from finetune_operator.plan.decision import Creation
from finetune_operator.plan.installation import Installation, with_defaults
from finetune_operator.plan.service import service
from finetune_operator.plan.workload import rendezvous_port, workload
from support.cluster_objects import job

GOLDEN = Path(__file__).parent / "golden"
PLAIN = Installation(image="registry.example/finetune-trainer:1.0")
WITH_STORE = Installation(
    image="registry.example/finetune-trainer:1.0",
    image_pull_policy="Always",
    image_pull_secrets=("pull-a", "pull-b"),
    endpoint="https://s3.example.com",
    region="eu-west-1",
    hub_endpoint="https://hub.example/mirror",
    credentials_secret="s3-credentials",
    checksums="WhenRequired",
)
FULL = {
    "model": {"source": "pvc://team.models-v2/llama", "credentials": {"secretName": "hub-models"}},
    "data.credentials": {"secretName": "hub-data"},
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
        "priorityClassName": "high", "runtimeClassName": "nvidia",
        "nodeSelector": {"gpu": "h200", "kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["a"]}]}]}}},
    },
    "runPolicy": {"activeDeadlineSeconds": 3600, "terminationGracePeriodSeconds": 120},
}  # fmt: skip
ONE_GPU = {"resources": {"gpusPerNode": 1}}
CASES: dict[str, tuple[dict[str, Any], Installation, Role]] = {
    "minimal": ({}, PLAIN, Role.TRAINER),
    "store-of-the-installation": (ONE_GPU, WITH_STORE, Role.TRAINER),
    "full": (FULL, WITH_STORE, Role.TRAINER),
    "preflight": (ONE_GPU, PLAIN, Role.PREFLIGHT),
    "preflight-full": (FULL, WITH_STORE, Role.PREFLIGHT),
}


def planned(
    changes: dict[str, Any], installation: Installation, role: Role = Role.TRAINER, **more: Any
) -> dict[str, Any]:
    facts = job(changes)
    spec = FineTuneJobSpec.model_validate(facts.spec)
    return workload(facts, Creation(1, spec, role, **more), installation)


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


def test_gangs_that_share_an_address_meet_at_ports_of_their_own() -> None:
    spec = FineTuneJobSpec.model_validate(job(FULL).spec)
    first, other = job(FULL), replace(job(FULL), uid="99999999-2222-3333-4444-555555555555")
    found = [rendezvous_port(each, Creation(n, spec)) for each in (first, other) for n in (1, 2)]
    assert len(set(found)) == 4
    assert found == [
        rendezvous_port(each, Creation(n, spec)) for each in (first, other) for n in (1, 2)
    ]
    # Neither node ports nor those that the kernel hands out.
    assert all(20_000 <= port < 30_000 for port in found)


def test_the_service_is_as_reviewed() -> None:
    check("service", service(job(FULL), 1))


@pytest.mark.parametrize("name", CASES)
def test_the_run_file_holds_the_spec_with_the_installations_store(name: str) -> None:
    changes, installation, role = CASES[name]
    template = planned(changes, installation, role)["spec"]["template"]
    run = RunFile.model_validate_json(template["metadata"]["annotations"][RUN_FILE_ANNOTATION])
    spec = FineTuneJobSpec.model_validate(job(changes).spec)
    assert run.spec == with_defaults(spec, installation)
    assert (run.job.name, run.attempt) == ("demo", 1)


@pytest.mark.parametrize("role", Role)
def test_every_mount_reaches_the_process_by_an_argument_or_a_variable(role: Role) -> None:
    trainer = container(planned(FULL, WITH_STORE, role))
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


# -- the preflight ---------------------------------------------------------------------------------


def test_a_preflight_asks_for_no_gpu_and_goes_where_none_is() -> None:
    manifest = planned(FULL, WITH_STORE, Role.PREFLIGHT)
    pod, only = manifest["spec"]["template"]["spec"], container(manifest)
    assert "amd.com/gpu" not in json.dumps(only["resources"])
    assert pod["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert not pod.keys() & {"affinity", "runtimeClassName", "subdomain"}
    # Where every node has GPUs and a taint, it may still run on one of them.
    assert pod["tolerations"] == FULL["scheduling"]["tolerations"]  # type: ignore[index]


def test_a_preflight_reads_with_the_rights_of_the_trainer() -> None:
    trainer, preflight = (planned(FULL, WITH_STORE, role) for role in Role)
    volumes = [each["spec"]["template"]["spec"]["volumes"] for each in (trainer, preflight)]
    assert [v for v in volumes[0] if v["name"] != "shared-memory"] == volumes[1]
    annotations = [
        each["spec"]["template"]["metadata"]["annotations"] for each in (trainer, preflight)
    ]
    runs = [RunFile.model_validate_json(each[RUN_FILE_ANNOTATION]) for each in annotations]
    # Only the time to save differs, of which a preflight needs little.
    assert runs[0].model_copy(update={"grace_seconds": 30}) == runs[1]


def test_scheduling_says_where_a_preflight_runs() -> None:
    own = {"nodeSelector": {"pool": "cpu"}, "tolerations": [{"key": "cpu", "operator": "Exists"}]}
    manifest = planned(FULL | {"scheduling.preflight": own}, PLAIN, Role.PREFLIGHT)
    pod = manifest["spec"]["template"]["spec"]
    assert (pod["nodeSelector"], pod["tolerations"]) == (own["nodeSelector"], own["tolerations"])
    anywhere = planned(FULL | {"scheduling.preflight": {"nodeSelector": {}}}, PLAIN, Role.PREFLIGHT)
    assert "nodeSelector" not in anywhere["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("asked", "requests", "limits"),
    [
        ({}, {"cpu": "1", "memory": "2Gi"}, None),
        ({"cpu": "16", "memory": "256Gi"}, {"cpu": "1", "memory": "2Gi"}, {"memory": "256Gi"}),
        (
            {"cpu": "500m", "memory": "512Mi"},
            {"cpu": "500m", "memory": "512Mi"},
            {"memory": "512Mi"},
        ),
    ],
    ids=["nothing", "much", "little"],
)
def test_the_requests_of_a_preflight_are_bounded(
    asked: dict[str, str], requests: dict[str, str], limits: dict[str, str] | None
) -> None:
    manifest = planned({"resources": {"gpusPerNode": 1, **asked}}, PLAIN, Role.PREFLIGHT)
    found = container(manifest)["resources"]
    assert (found["requests"], found.get("limits")) == (requests, limits)


@pytest.mark.parametrize("role", Role)
def test_the_longest_name_stays_within_what_kubernetes_takes(role: Role) -> None:
    name = names.job_name("a" * MAX_NAME_LENGTH, 99, role)
    # The label `batch.kubernetes.io/job-name` takes 63; host names of an Indexed Job add its index.
    assert len(name) + (len("-511") if role is Role.TRAINER else 0) <= 63


# -- chains and the hub ------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_the_run_file_says_where_the_outputs_of_other_jobs_lie(role: Role) -> None:
    sources = {"job://first": "s3://models/first"}
    manifest = planned({"model.source": "job://first"}, PLAIN, role, sources=sources)
    annotations = manifest["spec"]["template"]["metadata"]["annotations"]
    assert RunFile.model_validate_json(annotations[RUN_FILE_ANNOTATION]).sources == sources


def test_the_claim_of_another_jobs_output_is_mounted_for_reading() -> None:
    sources = {"job://first": "pvc://results/first"}
    manifest = planned({"model.source": "job://first"}, PLAIN, sources=sources)
    [claim] = [
        v for v in manifest["spec"]["template"]["spec"]["volumes"] if "persistentVolumeClaim" in v
    ]
    assert claim["persistentVolumeClaim"] == {"claimName": "results", "readOnly": True}


def test_hub_tokens_are_files_of_their_own_and_the_hub_is_the_installations() -> None:
    only = container(planned(FULL, WITH_STORE))
    variables = {each["name"]: each.get("value") for each in only["env"]}
    assert variables["HF_ENDPOINT"] == "https://hub.example/mirror"
    mounts = [variables[HUB_MODEL_CREDENTIALS], variables[HUB_DATA_CREDENTIALS]]
    assert len(set(mounts)) == 2
    assert {m["mountPath"] for m in only["volumeMounts"] if m.get("readOnly")} >= set(mounts)
    assert "HF_ENDPOINT" not in json.dumps(planned({}, PLAIN))
