"""Whole jobs with `training.kernels: Triton`, whose kernels run in the interpreter."""

import json
from collections.abc import Iterator
from importlib import import_module
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from finetune_api.v1alpha1.reasons import Reason
from finetune_kernels import launch
from finetune_kernels.ops import linear_cross_entropy
from finetune_trainer.fast import packed_attention
from support.fast_paths import fast_paths
from support.tiny_models import pairs, tiny_model, write_jsonl
from support.trainer_fixtures import laptop, restored_signals  # noqa: F401 - found by name


@pytest.fixture(autouse=True)
def permitted() -> Iterator[None]:
    yield
    launch.permit(kernels=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), hidden=32, layers=1)


def run(laptop: Any, spec: dict[str, Any]) -> tuple[Any, list[float]]:  # noqa: F811
    output = laptop.folder / "out"
    training = {"maxSteps": 1, "batchSize": 1, "logEverySteps": 1, "kernels": "Triton"}
    own = {
        "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
        "training": training,
        "output.uri": f"file://{output}",
    }
    report = laptop.run({**own, **spec}).report
    if report.outcome != "Complete":
        return report, []
    prefix = json.loads((output / "manifest.json").read_text())["prefix"]
    lines = (Path(prefix.removeprefix("file://")) / "training_log.jsonl").read_text().splitlines()
    return report, [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.mark.parametrize("method", ["SFT", "DPO"])
def test_our_attention_is_chosen(
    laptop: Any,  # noqa: F811
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    # A row of several blocks takes the interpreter ten seconds.
    monkeypatch.setattr(packed_attention, "_TRIED", 8)
    row = {"prompt": "a b", "completion": " c"}
    if method == "DPO":
        row = {"prompt": "a b", "chosen": " c", "rejected": " d e"}
    write_jsonl(laptop.folder / "train.jsonl", [row, row])
    spec = {"model.source": f"file://{model}", "method": {"type": method}}
    report, losses = run(laptop, spec)
    assert report.outcome == "Complete", report.message
    told = {each.field: each.value for each in report.resolved}
    assert told["training.kernels.attention"] == "Triton"
    assert fast_paths(report) == ("fused", "none")
    if method == "DPO":
        assert losses == [pytest.approx(log(2), abs=1e-5)]


def test_none_is_launched_where_none_is_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package names the function by the name of its module.
    module = import_module("finetune_kernels.ops.linear_cross_entropy")
    monkeypatch.setattr(module, "launch_forward", None)
    hidden, weight, labels = torch.randn(3, 8), torch.randn(5, 8), torch.tensor([1, -100, 4])
    launch.permit(kernels=False)
    found = linear_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(found, cross_entropy(hidden @ weight.T, labels))
    launch.permit(kernels=True)
    with pytest.raises(TypeError):
        linear_cross_entropy(hidden, weight, labels)


def test_a_model_without_a_layer_for_our_kernels_is_refused(laptop: Any) -> None:  # noqa: F811
    folder = tiny_model(laptop.folder / "t5", "t5", hidden=32, layers=1)
    write_jsonl(laptop.folder / "train.jsonl", pairs(8))
    spec = {
        "model": {"source": f"file://{folder}", "task": "text2text-generation"},
        "tuning": {"type": "Full"},
    }
    report, _ = run(laptop, spec)
    assert report.reason is Reason.UNSUPPORTED_COMBINATION, report.message
    assert "no layer of this model" in report.message
