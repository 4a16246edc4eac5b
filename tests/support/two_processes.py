"""Runs of several manifests by two processes, and of the same ones by this process alone.

For tests that hold one against the other: one torchrun starts both processes once for all manifests,
because importing the libraries takes longer than tiny runs do.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from finetune_api.records import Report
from finetune_trainer.__main__ import run_file
from support.jobs import manifest

# On a laptop without GPUs, two processes on the CPU stand for them.
TWO = {"resources.gpusPerNode": 2}
# Steps of two passes by one process, and of one by each of two; every one of them is in the log.
STEPS_OF_EIGHT = {
    "training.batchSize": 8,
    "training.microBatchSize": 4,
    "training.learningRate": 1e-3,
    "training.logEverySteps": 1,
    "training.scheduler": {"type": "Constant", "warmupSteps": 0},
}
_WORKER = Path(__file__).parents[1] / "invariant" / "distributed" / "worker.py"


@dataclass(frozen=True)
class Bench:
    """A folder with models and rows, and runs that use them.

    Attributes:
        root: The folder; outputs lie below `out` by the name of their run.
        common: What all manifests have, at dotted paths below `spec`.
    """

    root: Path
    common: dict[str, Any] = field(default_factory=dict)

    def write(self, name: str, changes: dict[str, Any]) -> Path:
        """The manifest of a run."""
        path = self.root / f"{name}.yaml"
        output = {"output.uri": f"file://{self.root}/out/{name}"}
        YAML().dump(manifest(name, self.common | output | changes), path)
        return path

    def together(self, runs: dict[str, dict[str, Any]]) -> dict[str, tuple[Report, Report]]:
        """The reports of both processes on each run."""
        files = [self.write(name, TWO | changes) for name, changes in runs.items()]
        launch = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"]
        words = [*launch, "--nproc-per-node=2", str(_WORKER), *map(str, files)]
        scratch = {"FINETUNE_SCRATCH": str(self.root / "both"), "OMP_NUM_THREADS": "1"}
        variables = {**os.environ, **scratch}
        done = subprocess.run(words, check=False, capture_output=True, text=True, env=variables)
        places = [[path.with_suffix(f".{rank}.json") for rank in (0, 1)] for path in files]
        assert all(each.exists() for pair in places for each in pair), done.stderr[-4000:]
        found = {
            name: (_report(pair[0]), _report(pair[1]))
            for name, pair in zip(runs, places, strict=True)
        }
        failed = [
            f"{n}: {each.message}"
            for n, r in found.items()
            for each in r
            if each.outcome == "Failed"
        ]
        assert not failed, f"{failed}\n{done.stderr[-6000:]}"
        return found

    def alone(self, name: str, changes: dict[str, Any]) -> "Output":
        """What this process makes of a run; `name` must be another one than that of the two."""
        scratch = {"FINETUNE_SCRATCH": str(self.root / "one")}
        report = run_file(self.write(name, changes), scratch, sys.stdout)
        assert report.outcome == "Complete", report.message
        return self.output(name)

    def output(self, name: str) -> "Output":
        """What a run published."""
        content = json.loads((self.root / "out" / name / "manifest.json").read_text())
        return Output(Path(content["prefix"].removeprefix("file://")))


@dataclass(frozen=True)
class Output:
    """What a run published.

    Attributes:
        folder: Where.
    """

    folder: Path

    def log(self) -> list[dict[str, float]]:
        """The entries of the training log; how fast it was is left out."""
        lines = (self.folder / "training_log.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        return [{n: v for n, v in each.items() if not n.startswith("tokens")} for each in entries]

    def weights(self) -> dict[str, torch.Tensor]:
        """All tensors."""
        [path] = self.folder.glob("*model*.safetensors")
        return load_file(path)


def _report(path: Path) -> Report:
    return Report.model_validate_json(path.read_text())
