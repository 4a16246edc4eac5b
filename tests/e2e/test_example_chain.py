"""The second example runs: its own scripts, its own manifests, a real model, as its README says."""

from pathlib import Path

import pytest

from support.examples import CHAIN, metrics, prepare_kubectl, script
from support.stack import BUCKET, Stack
from support.tenant import Tenant


@pytest.mark.timeout(3000)
def test_the_chain_learns_what_people_prefer(stack: Stack, tenant: Tenant, tmp_path: Path) -> None:
    prepare_kubectl(stack, tmp_path)
    script(stack, CHAIN / "prepare.py", "--bucket", BUCKET, "--data", str(tmp_path))
    stack.cluster.kubectl("apply", "-n", tenant.namespace, "-f", str(CHAIN / "jobs.yaml"))

    judge = metrics(tenant.wait("brief-reward", "Complete", seconds=1800))
    # Pairs that it never saw; a coin gives 0.5.
    assert judge["rewardAccuracy"][1] > 0.8
    reward = metrics(tenant.wait("brief-ppo", "Complete", seconds=1800))["reward"]
    assert reward[1] > reward[0] + 0.5
    direct = metrics(tenant.wait("brief-dpo", "Complete", seconds=1800))
    assert direct["rewardAccuracy"][1] > 0.8
