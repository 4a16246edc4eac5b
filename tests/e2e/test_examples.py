"""Every example runs: its own scripts, its own manifest, a real model, as its README says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.definition import ROOT
from support.stack import BUCKET, Stack
from support.tenant import Object, Tenant

EXAMPLES = ROOT / "examples"
RUN_HERE = {"01-kubectl-assistant", "02-rlhf-chain"}


def test_no_example_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == RUN_HERE


def script(stack: Stack, path: str, *words: str) -> str:
    """Runs a script of an example as its README says; returns what it printed."""
    command = [sys.executable, "-P", str(EXAMPLES / path), "--endpoint", stack.s3.endpoint, *words]
    done = subprocess.run(
        command, env=stack.environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def prepare_kubectl(stack: Stack, folder: Path) -> str:
    """Model and data of the first example are uploaded; returns where the model lies here."""
    words = (
        "--bucket",
        BUCKET,
        "--kubectl",
        str(stack.cluster.kubectl_path),
        "--data",
        str(folder),
    )
    said = script(stack, "01-kubectl-assistant/prepare.py", *words)
    [model] = [line.removeprefix("model in ") for line in said.splitlines() if "model in " in line]
    return model


@pytest.mark.timeout(1200)
def test_the_kubectl_assistant_learns_kubectl(stack: Stack, tenant: Tenant, tmp_path: Path) -> None:
    model = prepare_kubectl(stack, tmp_path)
    job = str(EXAMPLES / "01-kubectl-assistant" / "job.yaml")
    stack.cluster.kubectl("apply", "-n", tenant.namespace, "-f", job)
    status = tenant.wait("kubectl-assistant", "Complete", seconds=900)

    words = ("--json", "--model", model, "--adapter", status["output"]["uri"])
    evaluation = ("--evaluation", str(tmp_path / "evaluation.jsonl"))
    found = json.loads(script(stack, "01-kubectl-assistant/ask.py", *words, *evaluation))
    assert found["lossAfter"] < 0.7 * found["lossBefore"]
    # The program that measures here shares no line with the trainer. Base weights are bfloat16.
    assert float(status["evaluation"]["lossAfter"]) == pytest.approx(found["lossAfter"], rel=5e-3)
    after = [answer["after"] for answer in found["answers"]]
    before = [answer["before"] for answer in found["answers"]]
    assert all(answer.startswith("kubectl ") for answer in after), after
    assert not any(answer.startswith("kubectl ") for answer in before), before


@pytest.mark.timeout(2400)
def test_the_chain_learns_what_people_prefer(stack: Stack, tenant: Tenant, tmp_path: Path) -> None:
    prepare_kubectl(stack, tmp_path)
    words = ("--bucket", BUCKET, "--data", str(tmp_path))
    script(stack, "02-rlhf-chain/prepare.py", *words)
    jobs = str(EXAMPLES / "02-rlhf-chain" / "jobs.yaml")
    stack.cluster.kubectl("apply", "-n", tenant.namespace, "-f", jobs)

    judge = metrics(tenant.wait("brief-reward", "Complete", seconds=1200))
    # Pairs that it never saw; a coin gives 0.5.
    assert judge["rewardAccuracy"][1] > 0.8
    reward = metrics(tenant.wait("brief-ppo", "Complete", seconds=1200))["reward"]
    assert reward[1] > reward[0] + 0.5
    direct = metrics(tenant.wait("brief-dpo", "Complete", seconds=1200))
    assert direct["rewardAccuracy"][1] > 0.8


def metrics(status: Object) -> dict[str, tuple[float, float]]:
    """Held-out figures before and after, by name."""
    found = status["evaluation"]["metrics"]
    return {each["name"]: (float(each["before"]), float(each["after"])) for each in found}
