"""Run the scripts of an example as its README says, against the store and cluster of a stack."""

import subprocess
import sys
from pathlib import Path

from support.definition import ROOT
from support.stack import BUCKET, Stack
from support.tenant import Object

EXAMPLES = ROOT / "examples"
KUBECTL, CHAIN = EXAMPLES / "01-kubectl-assistant", EXAMPLES / "02-rlhf-chain"


def script(stack: Stack, path: Path, *words: str) -> str:
    """Runs a script of an example; returns what it printed."""
    command = [sys.executable, "-P", str(path), "--endpoint", stack.s3.endpoint, *words]
    done = subprocess.run(
        command, env=stack.environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def prepare_kubectl(stack: Stack, folder: Path) -> str:
    """Model and data of the first example are uploaded; returns where the model lies here."""
    kubectl = ("--kubectl", str(stack.cluster.kubectl_path))
    words = ("--bucket", BUCKET, *kubectl, "--data", str(folder))
    said = script(stack, KUBECTL / "prepare.py", *words)
    [model] = [line.removeprefix("model in ") for line in said.splitlines() if "model in " in line]
    return model


def metrics(status: Object) -> dict[str, tuple[float, float]]:
    """Held-out figures before and after, by name."""
    found = status["evaluation"]["metrics"]
    return {each["name"]: (float(each["before"]), float(each["after"])) for each in found}
