"""Two processes that hold parts of a model learn the same, however many layers compute again."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support import spread_recomputation
from support.tiny_models import pairs, tiny_llama, write_jsonl

# ZeRO-1 has whole layers as ZeRO-2 has.
STRATEGIES = ("FSDP", "ZeRO2", "ZeRO3")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("spread")
    tiny_llama(folder / "model", layers=spread_recomputation.LAYERS)
    write_jsonl(folder / "rows.jsonl", pairs(16))
    launch = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"]
    worker = ["--nproc-per-node=2", spread_recomputation.__file__, str(folder), *STRATEGIES]
    scratch = {"FINETUNE_SCRATCH": str(folder / "scratch"), "OMP_NUM_THREADS": "1"}
    # What pytest finds by its own settings, the worker must find too.
    variables = {**os.environ, **scratch, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*launch, *worker], check=False, capture_output=True, text=True, env=variables
    )
    assert (folder / "told.json").exists(), done.stderr[-6000:]
    return folder, json.loads((folder / "told.json").read_text())


def learnt(folder: Path, name: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and gradient norms step by step, and the published weights."""
    prefix = json.loads((folder / "out" / name / "manifest.json").read_text())["prefix"]
    output = Path(prefix.removeprefix("file://"))
    log = map(json.loads, (output / "training_log.jsonl").open())
    figures = [each[k] for each in log if "loss" in each for k in ("loss", "gradientNorm")]
    [weights] = output.glob("*model*.safetensors")
    return figures, load_file(weights)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parts_of_a_model_learn_the_same_to_the_bit(
    told: tuple[Path, dict[str, Any]], strategy: str
) -> None:
    folder, runs = told[0], told[1][strategy]
    assert [runs[how]["value"] for how in ("none", "some")] == ["Disabled", "1 of 3 layers"]
    # Two steps of two passes, in which only layers of the plan are called once more.
    again = {"some": [4, 0, 0], "all": [4, 4, 4]}
    figures, weights = learnt(folder, f"{strategy}-none")
    assert len(figures) == 4
    for how, run in runs.items():
        assert strategy in run["distributed"]
        found, others = learnt(folder, f"{strategy}-{how}")
        assert found == figures
        assert all(torch.equal(others[name], each) for name, each in weights.items())
        more = [
            mine - plain for mine, plain in zip(run["calls"], runs["none"]["calls"], strict=True)
        ]
        assert more == again.get(how, [0, 0, 0])
