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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategies", [("DDP", "FSDP"), ("ZeRO1", "ZeRO2", "ZeRO3")], ids=str)
def test_two_pods_learn_what_one_learns(tenant: Tenant, strategies: tuple[str, ...]) -> None:
    # Side by side: each gang meets at a port of its own, though all pods here share an address.
    for strategy in strategies:
        name = f"two-{strategy.lower()}"
        tenant.apply(name, {**TWO, "distributed": {"strategy": strategy}})
    tenant.apply("one", {"training": TWO["training"]})
    # The same rows by one process.
    expected = losses(tenant, tenant.wait("one", "Complete", 300))
    assert len(expected) == TWO["training"]["maxSteps"]
    assert expected[-1] < expected[0]
    for strategy in strategies:
        name = f"two-{strategy.lower()}"
        status = tenant.wait(name, "Complete", 300)
        found = {each["field"]: each["value"] for each in status["resolved"]}
        assert found["distributed"] == f"{strategy} on 2 processes over gloo"
        pods = tenant.children("pods", name)
        assert sorted(pod["status"]["phase"] for pod in pods) == ["Succeeded", "Succeeded"]
        assert losses(tenant, status) == pytest.approx(expected, abs=1e-4)
