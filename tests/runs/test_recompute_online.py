"""Methods that write answers while they train learn the same, however many layers compute again."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from support.taste import taste_model
from support.tiny_models import pairs, tiny_model, write_jsonl

FIGURES = ("loss", "gradientNorm")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "policy", positions=128)
    tiny_model(folder / "teacher", hidden=32, layers=1, positions=128, seed=3)
    taste_model(folder / "taste", AutoTokenizer.from_pretrained(folder / "policy"))
    return folder


@pytest.mark.parametrize("method", ["PPO", "GRPO", "Distillation"])
def test_a_small_pod_learns_the_same(laptop: Any, models: Path, method: str) -> None:
    write_jsonl(laptop.folder / "data" / "prompts.jsonl", pairs(16))
    blocks: dict[str, dict[str, Any]] = {
        "PPO": {"rewardModel": f"file://{models}/taste"},
        "GRPO": {"rewardModel": f"file://{models}/taste", "beta": 0.1, "answersPerPrompt": 4},
        "Distillation": {"teacher": f"file://{models}/teacher"},
    }
    block = {**blocks[method], "generation": {"maxNewTokens": 12}}
    given: dict[str, Any] = {
        "model.source": f"file://{models}/policy",
        "data.train": [{"source": f"file://{laptop.folder}/data/prompts.jsonl"}],
        "method": {"type": method, method.lower(): block},
        "training.maxSteps": 2,
        "training.batchSize": 4,
        "training.microBatchSize": 4,
        "training.logEverySteps": 1,
    }

    def run(name: str, **changes: str) -> tuple[list[float], str, int]:
        output = laptop.folder / name
        report = laptop.run({**given, **changes, "output.uri": f"file://{output}"}).report
        assert report.outcome == "Complete", report.message
        prefix = json.loads((output / "manifest.json").read_text())["prefix"]
        log = Path(prefix.removeprefix("file://")) / "training_log.jsonl"
        figures = [e[k] for e in map(json.loads, log.open()) if "loss" in e for k in FIGURES]
        told = {each.field: each.value for each in report.resolved}
        needed = report.plan.estimated_memory_bytes
        return figures, told["training.gradientCheckpointing"], needed

    plain, told, needed = run("plain")
    assert told == "Disabled"
    # Of which a fifth stays free.
    found, told, less = run("small", **{"resources.memory": str(int(needed / 0.8) - 2)})
    assert (told, less < needed) == ("1 of 2 layers", True)
    assert found == plain
