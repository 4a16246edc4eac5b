"""A job that computes activations again, or lets them wait elsewhere, learns the same."""

import json
import shutil
from pathlib import Path
from typing import Any

from support.tiny_models import pairs, write_jsonl


def test_a_run_in_a_small_pod_learns_the_same(laptop: Any, model_folder: Path) -> None:
    write_jsonl(laptop.folder / "data" / "train.jsonl", pairs(16))
    shutil.copytree(model_folder, laptop.folder / "model")
    given: dict[str, Any] = {
        "model.source": f"file://{laptop.folder}/model",
        "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
        "training.maxSteps": 3,
        "training.batchSize": 8,
        "training.logEverySteps": 1,
    }

    def run(name: str, changes: dict[str, Any]) -> tuple[list[float], Any, int]:
        output = laptop.folder / name
        report = laptop.run({**given, **changes, "output.uri": f"file://{output}"}).report
        assert report.outcome == "Complete", report.message
        prefix = json.loads((output / "manifest.json").read_text())["prefix"]
        log = Path(prefix.removeprefix("file://")) / "training_log.jsonl"
        losses = [each["loss"] for each in map(json.loads, log.open()) if "loss" in each]
        told = {each.field: each for each in report.resolved}
        return losses, told["training.gradientCheckpointing"], report.plan.estimated_memory_bytes

    plain, told, needed = run("plain", {})
    assert (told.value, told.why) == ("Disabled", "on the CPU, time is scarcer than memory")
    # Of which a fifth stays free.
    found, told, less = run("small", {"resources.memory": str(int(needed / 0.8) - 2)})
    assert told.value == "1 of 2 layers", told.why
    assert less < needed
    assert found == plain
    found, told, _ = run("offloaded", {"training.gradientCheckpointing": "Offload"})
    assert told.value == "Offload"
    assert "of the pod's own memory" in told.why
    assert found == plain
