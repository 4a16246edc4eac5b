"""Whole runs of the online methods in this process, from a manifest to a verified output."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.recipes import group
from support.fast_paths import fast_paths
from support.taste import taste_model
from support.tiny_models import pairs, tiny_model, write_jsonl

SHORT = {"maxNewTokens": 6}


@dataclass(frozen=True)
class Studio:
    """A policy, a reward model that likes letters, prompts with answers, and runs of two steps."""

    laptop: Any
    models: Path

    def run(self, kind: str, block: dict[str, Any], **changes: Any) -> Any:
        block = {"generation": SHORT, **block}
        spec = {
            "model.source": f"file://{self.models}/policy",
            "data.train": [{"source": f"file://{self.laptop.folder}/data/prompts.jsonl"}],
            "data.evaluation": {"fraction": 0.25},
            "output.uri": f"file://{self.laptop.folder}/out",
            "training.batchSize": 4,
            "training.microBatchSize": 4,
            "training.maxSteps": 2,
            "training.learningRate": 3e-3,
            "training.logEverySteps": 1,
            "method": {"type": kind, kind.lower(): block},
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
        return self.laptop.run(spec)

    @property
    def taste(self) -> str:
        return f"file://{self.models}/taste"

    def log(self) -> list[dict[str, float]]:
        manifest = json.loads((self.laptop.folder / "out" / "manifest.json").read_text())
        lines = Path(manifest["prefix"].removeprefix("file://")) / "training_log.jsonl"
        return [e for e in map(json.loads, lines.read_text().splitlines()) if "loss" in e]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "policy", hidden=32, layers=1, positions=128)
    tiny_model(folder / "teacher", hidden=64, layers=1, positions=128, seed=3)
    stranger(folder / "stranger", folder / "teacher")
    taste_model(folder / "taste", AutoTokenizer.from_pretrained(folder / "policy"))
    return folder


def stranger(folder: Path, like: Path) -> None:
    """Writes a model that knows one token more."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(like),
        AutoTokenizer.from_pretrained(like),
    )
    tokenizer.add_tokens(["zzz"])
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def studio(laptop: Any, models: Path) -> Studio:
    rows = [{"prompt": row["prompt"], "answer": row["completion"]} for row in pairs(24)]
    write_jsonl(laptop.folder / "data" / "prompts.jsonl", rows)
    return Studio(laptop, models)


def metrics(report: Any) -> dict[str, tuple[float, float]]:
    found = report.evaluation.metrics
    return {each.name: (float(each.before), float(each.after)) for each in found}


def test_ppo_with_an_adapter(studio: Studio) -> None:
    report = studio.run("PPO", {"rewardModel": studio.taste, "minibatches": 2}).report
    assert report.outcome == "Complete", report.message
    log = studio.log()
    assert [entry["step"] for entry in log] == [1, 2]
    # Before anything was learned, policy and reference are one.
    assert log[0]["kl"] == 0 < log[1]["kl"]
    assert log[0]["explainedVariance"] == 0
    measured = metrics(report)
    assert measured["kl"][0] == 0 < measured["kl"][1]
    assert set(measured) == {"reward", "kl", "responseLength", "eosShare"}
    assert report.evaluation.loss_before is None
    assert {"klCoefficient", "clipFraction", "valueLoss"} <= set(report.progress.metrics)
    resolved = {each.field: each.value for each in report.resolved}
    assert resolved["method.ppo.reference"] == "the policy without its adapter"
    assert fast_paths(report) == ("fused", "none")


def test_grpo_of_all_weights_with_both_kinds_of_rewards(studio: Studio) -> None:
    rewards = [{"type": "Length", "targetTokens": 4, "weight": 0.5}]
    block = {"rewards": rewards, "rewardModel": studio.taste, "beta": 0.1, "answersPerPrompt": 4}
    report = studio.run("GRPO", {**block, "loss": "GRPO"}, tuning__type="Full").report
    assert report.outcome == "Complete", report.message
    log = studio.log()
    # The advantages of a group sum to zero; so does the loss as long as nothing has moved.
    assert abs(log[0]["loss"]) < 1e-3
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert log[1]["kl"] > 0
    for entry in log:
        parts = 0.5 * entry["rewardLength"] + entry["rewardRewardModel"]
        assert entry["reward"] == pytest.approx(parts, abs=1e-4)
    assert 0 <= log[0]["zeroVarianceShare"] < 1
    told = {each.field: each.value for each in report.resolved}
    assert told["training.kernels.prompts"] == "read once"
    # It is a frozen copy.
    assert told["training.kernels.reference"] == "asked in a pass of its own"
    assert fast_paths(report) == ("fused", "none")


def test_a_pass_holds_a_group_and_learns_what_single_answers_teach(studio: Studio) -> None:
    rows = [{"prompt": " ".join([row["prompt"]] * 4).strip()} for row in pairs(24)]
    write_jsonl(studio.laptop.folder / "data" / "prompts.jsonl", rows)
    block = {"rewardModel": studio.taste, "beta": 0.1, "answersPerPrompt": 4}
    logs = []
    for size in ("Auto", 1):
        changes = {"training__batchSize": 2, "training__microBatchSize": size}
        report = studio.run("GRPO", block, **changes).report
        assert report.outcome == "Complete", report.message
        logs.append(studio.log())
        shutil.rmtree(studio.laptop.folder / "out")
        if size == "Auto":
            chosen = {each.field: each for each in report.resolved}["training.microBatchSize"]
            # Two prompts of 4 answers: without sharing, no more than 2 answers a pass.
            assert int(chosen.value) % 4 == 0
            assert "share" in chosen.why
    for large, single in zip(*logs, strict=True):
        assert large["loss"] == pytest.approx(single["loss"], abs=1e-5)
        assert large["gradientNorm"] == pytest.approx(single["gradientNorm"], rel=1e-4)


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_one_pass_for_policy_and_reference(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    block = {"rewardModel": studio.taste, "beta": 0.1, "answersPerPrompt": 4}
    logs, told = [], []
    for why in (None, "to see what it is without"):
        if why:
            monkeypatch.setattr(group, "against_one_pass", lambda *_, why=why: why)
        report = studio.run(kind, block).report
        assert report.outcome == "Complete", report.message
        resolved = {each.field: each for each in report.resolved}
        told.append(resolved["training.kernels.reference"])
        logs.append([{n: v for n, v in e.items() if n[:6] != "tokens"} for e in studio.log()])
        shutil.rmtree(studio.laptop.folder / "out")
    assert told[0].value == "one pass for policy and reference"
    assert told[1].why == "to see what it is without"
    assert logs[0] == logs[1]
    assert logs[0][1]["kl"] != 0


def test_what_ppo_and_distillation_leave_alone_is_told(studio: Studio) -> None:
    report = studio.run("PPO", {"rewardModel": studio.taste}, tuning__type="Full").report
    assert report.outcome == "Complete", report.message
    assert fast_paths(report) == ("library", "padded")
    why = {each.field: each.why for each in report.resolved}
    assert why["training.kernels.loss"] == "the output layer is trained"
    teacher = {"teacher": f"file://{studio.models}/teacher"}
    other = f"file://{studio.laptop.folder}/other"
    report = studio.run("Distillation", teacher, output__uri=other).report
    assert report.outcome == "Complete", report.message
    assert fast_paths(report) == ("library", "padded")


def test_a_batch_must_divide_and_be_there(studio: Studio) -> None:
    block = {"rewardModel": studio.taste, "answersPerPrompt": 3}
    report = studio.run("GRPO", block, training__microBatchSize=5).report
    assert report.reason == Reason.INVALID_SPEC
    assert "12 answers of a step (4 prompts × 3 answers)" in report.message
    report = studio.run("RLOO", block, training__batchSize=64).report
    assert report.reason == Reason.INVALID_SPEC
    assert "there are only 18" in report.message
    ppo = {"rewardModel": studio.taste, "minibatches": 3}
    report = studio.run("PPO", ppo).report
    assert report.reason == Reason.INVALID_SPEC
    assert "minibatches" in report.message


def test_a_teacher_with_other_tokens_is_refused(studio: Studio) -> None:
    teacher = f"file://{studio.models}/stranger"
    report = studio.run("Distillation", {"teacher": teacher}).report
    assert report.reason == Reason.UNSUPPORTED_MODEL
    assert "tokens are not the student's" in report.message


def test_rewards_that_never_differ_end_the_run_with_their_own_reason(studio: Studio) -> None:
    rewards = [{"type": "ExactMatch", "column": "answer"}]
    report = studio.run("RLOO", {"rewards": rewards, "answersPerPrompt": 2}).report
    assert report.reason == Reason.NO_REWARD_SIGNAL
    assert "all 2 steps" in report.message


def test_a_row_without_the_column_of_a_reward_is_named(studio: Studio) -> None:
    rewards = [{"type": "ExactMatch", "column": "solution"}]
    report = studio.run("GRPO", {"rewards": rewards}).report
    assert report.reason == Reason.DATA_INVALID
    assert "prompts.jsonl" in report.message
    assert "solution" in report.message
