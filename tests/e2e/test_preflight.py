"""The real trainer's preflight on a node that has GPUs to give away, for jobs that ask for one."""

import time

import pytest

from support.stack import BUCKET
from support.tenant import Object, Tenant, conditions

# Real programs start, on whatever machine this is.
pytestmark = pytest.mark.timeout(900)
GPU: Object = {"resources.gpusPerNode": 1}
DATA = f"s3://{BUCKET}/data"


def jobs(tenant: Tenant, name: str) -> list[str]:
    return sorted(each["metadata"]["name"] for each in tenant.children("jobs", name))


def created(tenant: Tenant, mark: int, name: str) -> list[str]:
    """Names of the Jobs of a job that the operator asked the API server to create."""
    return [
        write.name for write in tenant.stack.operator_writes(mark)
        if (write.verb, write.resource) == ("create", "jobs") and write.name.startswith(name)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "source", "reason", "place"),
    [
        ("gpu-broken", "broken.jsonl", "DataInvalid", "broken.jsonl line 17"),
        ("gpu-empty", "empty.jsonl", "DataEmpty", "empty.jsonl"),
        ("gpu-absent", "absent.jsonl", "DataNotFound", f"{DATA}/absent.jsonl"),
    ],
)
def test_bad_data_is_refused_before_a_gpu_is_held(
    tenant: Tenant, name: str, source: str, reason: str, place: str
) -> None:
    mark = tenant.stack.cluster.audit.mark()
    tenant.apply(name, GPU | {"data.train": [{"source": f"{DATA}/{source}"}]})
    status = tenant.wait(name, "Failed")
    failure = status["failure"]
    assert failure["reason"] == reason, failure
    assert place in failure["message"]
    assert failure["hint"]
    time.sleep(1)
    assert created(tenant, mark, name) == [f"{name}-1-preflight"]
    assert jobs(tenant, name) == [f"{name}-1-preflight"]
    for pod in tenant.children("pods", name):
        assert "nvidia.com/gpu" not in str(pod["spec"]["containers"][0]["resources"])


def test_good_data_is_planned_and_then_a_gpu_is_asked_for(tenant: Tenant) -> None:
    """The node's GPUs are made up, so the trainer finds none: what the preflight found stays."""
    tenant.apply("gpu-good", {**GPU, "runPolicy.retries": {"infrastructure": 0}})
    status = tenant.wait("gpu-good", "Failed")
    assert status["failure"]["reason"] == "GPUNotFound", status["failure"]
    assert conditions(status)["InputChecked"] == "True"
    assert status["plan"]["rows"] == 64
    assert status["plan"]["evaluationRows"] == 16
    assert status["plan"]["supervisedTokens"] > 64
    assert status["resolved"]
    assert jobs(tenant, "gpu-good") == ["gpu-good-1", "gpu-good-1-preflight"]
    assert [each["job"] for each in status["attempts"]] == ["gpu-good-1"]
