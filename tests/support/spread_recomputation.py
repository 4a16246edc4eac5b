"""One process of two that trains a job with no layer, some and all layers computed again, by every strategy.

Started by `runs.test_recompute_spread` under torchrun, so that libraries are imported once; writes what the
first process was told and how often it called each layer, by strategy and by what was asked for.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from transformers.models.llama.modeling_llama import LlamaAttention

from finetune_api.records import Report
from finetune_trainer import processes
from finetune_trainer.__main__ import run_file
from support.jobs import manifest

FIELD = "training.gradientCheckpointing"
LAYERS = 3
CALLS: Counter[int] = Counter()


def main(folder: Path, strategies: list[str]) -> None:
    """Runs all jobs.

    Args:
        folder: With a model and rows.
        strategies: In the words of `distributed.strategy`.
    """
    _count_calls()
    found = {name: _asked(folder, name) for name in strategies}
    if processes.is_main():
        (folder / "told.json").write_text(json.dumps(found), "utf-8")


def _count_calls() -> None:
    # Inside the layer, whose own `forward` is what transformers checkpoints.
    forward = LlamaAttention.forward

    def counted(self: Any, *inputs: Any, **named: Any) -> Any:
        CALLS[self.layer_idx] += 1
        return forward(self, *inputs, **named)

    LlamaAttention.forward = counted  # type: ignore[method-assign]


def _asked(folder: Path, strategy: str) -> dict[str, Any]:
    named = {"distributed.strategy": strategy}
    plain, found = _run(folder, f"{strategy}-none", named)
    [needed, _] = processes.gather_objects(plain.plan and plain.plan.estimated_memory_bytes)
    # Each of two processes has half, of which a fifth stays free.
    room = {"resources.memory": str(2 * (int(needed / 0.8) - 2))}
    told = {"none": found, "some": _run(folder, f"{strategy}-some", {**named, **room})[1]}
    if strategy in ("FSDP", "ZeRO3"):
        told["all"] = _run(folder, f"{strategy}-all", {**named, FIELD: "Enabled"})[1]
    return told


def _run(folder: Path, name: str, changes: dict[str, Any]) -> tuple[Report, dict[str, Any]]:
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    given = {
        "model.source": f"file://{folder}/model",
        "data.train": [{"source": f"file://{folder}/rows.jsonl"}],
        "output.uri": f"file://{folder}/out/{name}",
        "resources.gpusPerNode": 2,
        "training.maxSteps": 2,
        "training.batchSize": 8,
        "training.microBatchSize": 2,
        "training.learningRate": 1e-3,
        "training.logEverySteps": 1,
    }
    path = folder / f"{name}.{os.environ['RANK']}.yaml"
    YAML().dump(manifest(name.lower(), {**given, **changes}), path)
    CALLS.clear()
    report = run_file(path, os.environ, sys.stdout)
    assert report.outcome == "Complete", report.message
    chosen = {each.field: each.value for each in report.resolved or []}
    calls = [CALLS[layer] for layer in range(LAYERS)]
    return report, {
        "value": chosen.get(FIELD), "distributed": chosen.get("distributed"), "calls": calls
    }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)
