"""Two pods train one model: an Indexed Job, its Service, the meeting, one output."""

import json

import pytest

from support.stack import BUCKET
from support.tenant import Object, Tenant

TWO: Object = {
    "resources": {"gpusPerNode": 0, "nodes": 2},
    "training": {"maxSteps": 6, "batchSize": 8, "learningRate": 1e-3, "logEverySteps": 1},
}


def losses(tenant: Tenant, status: Object) -> list[float]:
    """What was logged at each step."""
    key = status["output"]["uri"].removeprefix(f"s3://{BUCKET}/") + "/training_log.jsonl"
    body = tenant.stack.s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return [json.loads(line)["loss"] for line in body.splitlines()]


@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_two_pods_learn_what_one_learns(tenant: Tenant, strategy: str) -> None:
    name = f"two-{strategy.lower()}"
    tenant.apply(name, {**TWO, "distributed": {"strategy": strategy}})
    status = tenant.wait(name, "Complete", 150)
    found = {each["field"]: each["value"] for each in status["resolved"]}
    assert found["distributed"] == f"{strategy} on 2 processes over gloo"
    pods = tenant.children("pods", name)
    assert sorted(pod["status"]["phase"] for pod in pods) == ["Succeeded", "Succeeded"]
    # The same rows by one process: the curve of the first test is that of the second.
    curve = losses(tenant, status)
    assert len(curve) == TWO["training"]["maxSteps"]
    assert curve[-1] < curve[0]
    tenant.apply(f"one-{name}", {"training": TWO["training"]})
    assert losses(tenant, tenant.wait(f"one-{name}", "Complete", 150)) == pytest.approx(
        curve, abs=1e-4
    )
