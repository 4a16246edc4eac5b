"""Two processes learn what one learns: the same losses step by step, the same published weights.

One torchrun of two processes over gloo runs every strategy, and this process runs the same jobs alone.
The rows are 22 in batches of 8, so that each pass ends with a step that the processes share unequally.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from finetune_api.records import Report
from finetune_trainer.__main__ import run_file
from support.jobs import manifest
from support.preference_data import preferences
from support.tiny_models import pairs, tiny_llama, write_jsonl

ROWS, STEPS = 22, 6
FULL = {"tuning": {"type": "Full"}}
DPO = {"method": {"type": "DPO"}, "data.train": [{"source": "preferences"}]}
# As on GPUs, where layers are computed again for the backward pass.
CHECKPOINTING = {"training.gradientCheckpointing": "Enabled"}
# On a laptop without GPUs, two processes on the CPU stand for them.
BOTH = {"resources.gpusPerNode": 2}
STRATEGIES = ("DDP", "FSDP", "ZeRO1", "ZeRO2", "ZeRO3")
DDP, FSDP, ZERO1, ZERO2, ZERO3 = ({"distributed.strategy": n, **BOTH} for n in STRATEGIES)
SPREAD = (*BOTH, "distributed.strategy", "distributed.offload")
# Name of a run -> what it changes, and how far losses and weights may be off.
# No evaluation after the first is an improvement: it stops at step 3 with the weights of step 1.
STOPPING = {
    "data.evaluation": {"fraction": 0.1},
    "training.evaluateEverySteps": 1,
    "training.earlyStopping": {"patience": 2, "threshold": 10},
}
RUNS: dict[str, tuple[dict[str, Any], float]] = {
    "sft-ddp": ({**DDP}, 1e-5),
    "full-ddp": ({**DDP, **FULL}, 1e-5),
    "dpo-ddp": ({**DDP, **DPO}, 1e-5),
    "stopping-full-ddp": ({**DDP, **FULL, **STOPPING}, 1e-5),
    "sft-fsdp": ({**FSDP}, 1e-4),
    "full-fsdp": ({**FSDP, **FULL}, 1e-4),
    "sft-zero1": ({**ZERO1}, 1e-4),
    "sft-zero2": ({**ZERO2}, 1e-4),
    "offload-full-zero2": ({**ZERO2, **FULL, "distributed.offload": "Optimizer"}, 1e-4),
    "sft-zero3": ({**ZERO3, **CHECKPOINTING}, 1e-4),
    "offload-full-zero3": ({**ZERO3, **FULL, "distributed.offload": "All"}, 1e-4),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("distributed")
    tiny_llama(root / "model")
    write_jsonl(root / "rows.jsonl", pairs(ROWS))
    write_jsonl(root / "preferences.jsonl", preferences(ROWS))
    return root


def job(root: Path, name: str, changes: dict[str, Any], *, micro: int) -> Path:
    """Writes the manifest of a run whose output is named like it."""
    rows = changes.pop("data.train", [{"source": "rows"}])[0]["source"]
    common = {
        "model.source": f"file://{root}/model",
        "data.train": [{"source": f"file://{root}/{rows}.jsonl"}],
        "output.uri": f"file://{root}/out/{name}",
        "training.maxSteps": STEPS,
        "training.batchSize": 8,
        "training.microBatchSize": micro,
        "training.learningRate": 1e-3,
        "training.logEverySteps": 1,
        "training.scheduler": {"type": "Constant", "warmupSteps": 0},
    }
    path = root / f"{name}.yaml"
    YAML().dump(manifest(name, common | changes), path)
    return path


@pytest.fixture(scope="module")
def together(folder: Path) -> dict[str, Report]:
    """The reports of rank 0, of runs by two processes."""
    # One pass of four rows, or two of two: the split must not matter either.
    micros = {name: 2 if "full" in name else 4 for name in RUNS}
    files = [job(folder, n, dict(RUNS[n][0]), micro=micros[n]) for n in RUNS]
    launch = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"]
    worker = ["--nproc-per-node=2", str(Path(__file__).parent / "distributed" / "worker.py")]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "FINETUNE_SCRATCH": str(folder / "both")}
    words = [*launch, *worker, *map(str, files)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=variables)
    said = [path.with_suffix(".0.json") for path in files]
    assert all(path.exists() for path in said), done.stderr[-4000:]
    reports = {p.name[: -len(".0.json")]: Report.model_validate_json(p.read_text()) for p in said}
    failed = [
        f"{name}: {each.message}" for name, each in reports.items() if each.outcome == "Failed"
    ]
    assert not failed, f"{failed}\n{done.stderr[-6000:]}"
    return reports


def alone(folder: Path, name: str) -> Path:
    """Trains the same job in this process; returns where it was published."""
    changes = {key: value for key, value in RUNS[name][0].items() if key not in SPREAD}
    path = job(folder, f"{name}-alone", changes, micro=4)
    report = run_file(path, {"FINETUNE_SCRATCH": str(folder / "one")}, sys.stdout)
    assert report.outcome == "Complete", report.message
    return published(folder, f"{name}-alone")


def published(folder: Path, name: str) -> Path:
    content = json.loads((folder / "out" / name / "manifest.json").read_text())
    return Path(content["prefix"].removeprefix("file://"))


def losses(output: Path) -> list[float]:
    lines = (output / "training_log.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def weights(output: Path) -> dict[str, torch.Tensor]:
    [path] = output.glob("*model*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_what_one_learns(
    folder: Path, together: dict[str, Report], name: str
) -> None:
    tolerance = RUNS[name][1]
    output, expected = published(folder, name), alone(folder, name)
    assert losses(output) == pytest.approx(losses(expected), abs=tolerance)
    assert len(losses(output)) == (3 if "stopping" in name else STEPS)
    assert losses(output)[-1] < losses(output)[0]
    mine, theirs = weights(output), weights(expected)
    assert {n: t.shape for n, t in mine.items()} == {n: t.shape for n, t in theirs.items()}
    for tensor, value in mine.items():
        assert value.numel()
        torch.testing.assert_close(value, theirs[tensor], atol=10 * tolerance, rtol=0, msg=tensor)


@pytest.mark.parametrize("name", RUNS)
def test_what_really_ran_is_attested(together: dict[str, Report], name: str) -> None:
    strategy = {each.lower(): each for each in STRATEGIES}[name.rpartition("-")[2]]
    resolved = {each.field: each.value for each in together[name].resolved or ()}
    assert resolved["distributed"] == f"{strategy} on 2 processes over gloo"
