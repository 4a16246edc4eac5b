"""The first example runs: its own scripts, its own manifest, a real model, as its README says."""

import json
from pathlib import Path

import pytest

from support.examples import CHAIN, EXAMPLES, KUBECTL, prepare_kubectl, script
from support.stack import Stack
from support.tenant import Tenant


def test_no_example_is_forgotten() -> None:
    assert {path for path in EXAMPLES.iterdir() if path.is_dir()} == {KUBECTL, CHAIN}


# Twice as long as alone: the chain runs beside it.
@pytest.mark.timeout(1800)
def test_the_kubectl_assistant_learns_kubectl(stack: Stack, tenant: Tenant, tmp_path: Path) -> None:
    model = prepare_kubectl(stack, tmp_path)
    stack.cluster.kubectl("apply", "-n", tenant.namespace, "-f", str(KUBECTL / "job.yaml"))
    status = tenant.wait("kubectl-assistant", "Complete", seconds=1500)

    words = ("--json", "--model", model, "--adapter", status["output"]["uri"])
    evaluation = ("--evaluation", str(tmp_path / "evaluation.jsonl"))
    found = json.loads(script(stack, KUBECTL / "ask.py", *words, *evaluation))
    assert found["lossAfter"] < 0.7 * found["lossBefore"]
    # The program that measures here shares no line with the trainer. Base weights are bfloat16.
    assert float(status["evaluation"]["lossAfter"]) == pytest.approx(found["lossAfter"], rel=5e-3)
    after = [answer["after"] for answer in found["answers"]]
    before = [answer["before"] for answer in found["answers"]]
    assert all(answer.startswith("kubectl ") for answer in after), after
    assert not any(answer.startswith("kubectl ") for answer in before), before
