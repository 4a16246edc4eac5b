"""One run of our trainer as a user would start it; its figures are read from what it publishes."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from finetune_trainer.__main__ import run_file
from invariant.parity.curves import Curve
from invariant.parity.workplace import SEED, Workplace
from support.jobs import manifest

STEPS = 20
TRAINING = {
    "maxSteps": STEPS,
    "batchSize": 8,
    "microBatchSize": 8,
    "learningRate": 2e-3,
    "scheduler": {"type": "Cosine", "warmupSteps": 2},
    "weightDecay": 0.0,
    "maxGradientNorm": 1.0,
    "seed": SEED,
    "logEverySteps": 1,
    "precision": "Float32",
}
LORA: dict[str, Any] = {"type": "LoRA", "lora": {"rank": 8, "alpha": 16, "targets": ["all-linear"]}}


@dataclass(frozen=True)
class Run:
    """What a run left behind.

    Attributes:
        curve: Of its log.
        weights: The published adapter.
    """

    curve: Curve
    weights: dict[str, torch.Tensor]

    def weight_difference(self, other: "Run") -> float:
        """The largest difference between two elements of the same tensor."""
        assert self.weights.keys() == other.weights.keys()
        return max(
            float((tensor - other.weights[name]).abs().max())
            for name, tensor in self.weights.items()
        )


def run(place: Workplace, name: str, model: str, data: Path, spec: Mapping[str, Any]) -> Run:
    """Train and publish.

    Args:
        place: The models.
        name: Of the run.
        model: Of the base model.
        data: File of raw rows.
        spec: What is particular to the run, at dotted paths.
    """
    output = place.folder / "out" / name
    changes = {
        "model.source": f"file://{place.model(model)}",
        "data.train": [{"source": f"file://{data}"}],
        "output.uri": f"file://{output}",
        "training": TRAINING,
        "tuning": LORA,
        **spec,
    }
    file = place.folder / f"{name}.yaml"
    YAML().dump(manifest("parity", changes), file)
    scratch = {"FINETUNE_SCRATCH": str(place.folder / "scratch" / name)}
    report = run_file(file, scratch, io.StringIO())
    if report.outcome != "Complete":
        raise RuntimeError(f"{name}: {report.reason}: {report.message}")
    prefix = json.loads((output / "manifest.json").read_text())["prefix"]
    return _read(Path(prefix.removeprefix("file://")))


def _read(folder: Path) -> Run:
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    log = [entry for entry in map(json.loads, lines) if "loss" in entry]
    curve = Curve([entry["loss"] for entry in log], [entry["gradientNorm"] for entry in log])
    return Run(curve, load_file(folder / "adapter_model.safetensors"))
