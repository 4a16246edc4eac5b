"""Whole runs of the methods that learn from preferences, from a manifest to a verified adapter."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.reasons import Reason
from support.fast_paths import fast_paths
from support.preference_data import preferences
from support.tiny_models import write_jsonl


@pytest.fixture
def run(laptop: Any, model_folder: Path) -> Any:
    """Runs a method on rows; gives the outcome."""

    def start(method: dict[str, Any], rows: list[dict[str, Any]], **changes: Any) -> Any:
        write_jsonl(laptop.folder / "data" / "train.jsonl", rows)
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return laptop.run(
            {
                "model.source": f"file://{model_folder}",
                "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
                "data.evaluation": {"fraction": 0.25},
                "method": method,
                "training": {"learningRate": 3e-3, "maxSteps": 12, "batchSize": 8},
                "output.uri": f"file://{laptop.folder}/out",
                **named,
            }
        )

    return start


def learned(outcome: Any) -> dict[str, tuple[float, float]]:
    report = outcome.report
    assert report.outcome == "Complete", report.message
    found = report.evaluation
    metrics = {each.name: (float(each.before), float(each.after)) for each in found.metrics}
    return {**metrics, "loss": (float(found.loss_before), float(found.loss_after))}


def resolved(outcome: Any) -> dict[str, str]:
    return {choice.field: choice.value for choice in outcome.report.resolved}


def test_dpo(run: Any, laptop: Any) -> None:
    outcome = run({"type": "DPO", "dpo": {"beta": 0.5}}, preferences(48))
    figures = learned(outcome)
    assert figures["loss"][0] == pytest.approx(0.6931, abs=1e-4)
    assert figures["rewardAccuracy"][0] == 0.5
    assert figures["loss"][1] < 0.4
    assert figures["rewardAccuracy"][1] > 0.8
    assert figures["rewardMargin"][1] > 1
    assert resolved(outcome)["method.dpo.reference"] == "the model before training"
    assert resolved(outcome)["method.dpo.reference.precompute"] == "kept over epochs"
    assert set(outcome.report.progress.metrics) >= {"rewardMargin", "rewardAccuracy"}
    assert fast_paths(outcome.report) == ("fused", "none")
    published = {p.name for p in Path(laptop.folder / "out").rglob("*") if p.is_dir()}
    assert "ref" not in published


def test_ipo_against_another_model(run: Any, model_folder: Path) -> None:
    ipo = {"beta": 0.2, "reference": {"source": f"file://{model_folder}", "precompute": False}}
    outcome = run({"type": "IPO", "ipo": ipo}, preferences(24), tuning={"type": "Full"})
    figures = learned(outcome)
    # It is the same model, whose IPO loss is 1/(4β²).
    assert figures["loss"][0] == pytest.approx(6.25, abs=1e-3)
    assert figures["loss"][1] < 6
    assert resolved(outcome)["method.ipo.reference"] == f"file://{model_folder}"
    assert fast_paths(outcome.report) == ("fused", "none")


def test_what_is_left_alone_is_told(run: Any) -> None:
    tuning = {"type": "PromptTuning"}
    training = {"learningRate": 3e-3, "maxSteps": 2, "batchSize": 8}
    report = run({"type": "DPO"}, preferences(24), tuning=tuning, training=training).report
    assert report.outcome == "Complete", report.message
    assert fast_paths(report) == ("library", "padded")
    why = {each.field: each.why for each in report.resolved}
    assert why["training.kernels.loss"] == "the adapter lives in the prompt"


def test_a_reference_with_other_tokens(run: Any, tmp_path: Path) -> None:
    from support.tiny_models import tiny_model

    other = tiny_model(tmp_path / "other", "t5")
    config = json.loads((other / "config.json").read_text())
    assert config["model_type"] == "t5"
    dpo = {"reference": {"source": f"file://{other}"}}
    report = run({"type": "DPO", "dpo": dpo}, preferences(24)).report
    assert report.reason is Reason.UNSUPPORTED_MODEL


def test_a_first_loss_that_is_not_known_stops_the_job(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.preference.reference import Reference

    found = Reference.before_training

    def shifted(self: Reference, batch: Any) -> Any:
        sums = found(self, batch)
        sums[: len(sums) // 2] -= 1
        return sums

    monkeypatch.setattr(Reference, "before_training", shifted)
    report = run({"type": "DPO"}, preferences(24)).report
    assert report.reason is Reason.SANITY_CHECK_FAILED
    assert "must be 0.6931" in report.message
