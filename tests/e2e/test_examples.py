"""Every example runs: its own scripts, its own manifest, a real model, as its README says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.definition import ROOT
from support.stack import BUCKET, Stack
from support.tenant import Tenant

EXAMPLES = ROOT / "examples"
RUN_HERE = {"01-kubectl-assistant"}


def test_no_example_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == RUN_HERE


@pytest.mark.timeout(1200)
def test_the_kubectl_assistant_learns_kubectl(stack: Stack, tenant: Tenant, tmp_path: Path) -> None:
    example = EXAMPLES / "01-kubectl-assistant"

    def script(name: str, *words: str) -> str:
        command = [
            sys.executable,
            "-P",
            str(example / name),
            "--endpoint",
            stack.s3.endpoint,
            *words,
        ]
        done = subprocess.run(
            command, env=stack.environment(), check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    kubectl = str(stack.cluster.kubectl_path)
    said = script("prepare.py", "--bucket", BUCKET, "--kubectl", kubectl, "--data", str(tmp_path))
    [model] = [line.removeprefix("model in ") for line in said.splitlines() if "model in " in line]
    stack.cluster.kubectl("apply", "-n", tenant.namespace, "-f", str(example / "job.yaml"))
    status = tenant.wait("kubectl-assistant", "Complete", seconds=900)

    words = ("--json", "--model", model, "--adapter", status["output"]["uri"])
    found = json.loads(script("ask.py", *words, "--evaluation", str(tmp_path / "evaluation.jsonl")))
    assert found["lossAfter"] < 0.7 * found["lossBefore"]
    # The program that measures here shares no line with the trainer. Base weights are bfloat16.
    assert float(status["evaluation"]["lossAfter"]) == pytest.approx(found["lossAfter"], rel=5e-3)
    after = [answer["after"] for answer in found["answers"]]
    before = [answer["before"] for answer in found["answers"]]
    assert all(answer.startswith("kubectl ") for answer in after), after
    assert not any(answer.startswith("kubectl ") for answer in before), before
