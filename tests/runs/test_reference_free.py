"""ORPO, CPO and SimPO: losses by hand from plain logits, splits of a step, and whole runs."""

import json
import random
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from trl.trainer.dpo_trainer import DataCollatorForPreference

from finetune_api.v1alpha1 import method
from finetune_trainer.arguments_preference import answer_arguments
from finetune_trainer.data.rows import PreferenceRow
from finetune_trainer.preference import objectives, pairs
from finetune_trainer.preference.objectives import Objective
from finetune_trainer.preference.pair_trainer import ReferenceFreePairs
from support.fast_paths import fast_paths
from support.preference_data import SETTINGS, ids, preferences
from support.tiny_models import write_jsonl

OBJECTIVES = {
    "ORPO": objectives.orpo(method.ORPO(beta=0.3)),
    "CPO": objectives.cpo(method.CPO(beta=0.2, alpha=0.7)),
    "SimPO": objectives.simpo(method.SimPO(beta=2.5, gamma=0.4)),
}

# For a model that has learnt no text at all, likelihood would be most of the loss.
BLOCKS = {"ORPO": {"beta": 10}, "CPO": {"beta": 0.5, "alpha": 0.1}, "SimPO": {}}


def rows(count: int) -> list[PreferenceRow]:
    draw = random.Random(0)  # noqa: S311
    return [PreferenceRow(ids(draw), ids(draw), ids(draw), f"line {n}") for n in range(count)]


@pytest.fixture
def build(model_folder: Path, tmp_path: Path) -> Any:
    """Makes a trainer on ten rows."""

    def make(objective: Objective, settings: Any = SETTINGS) -> ReferenceFreePairs:
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.2)
        return ReferenceFreePairs(
            objective=objective,
            settings=settings,
            model=get_peft_model(model, lora),
            args=TrainingArguments(**answer_arguments(settings, tmp_path / "trainer")),
            train_dataset=pairs.dataset(rows(10)),
            eval_dataset=pairs.dataset(rows(7)),
            data_collator=DataCollatorForPreference(0),
        )

    return make


def losses(trainer: ReferenceFreePairs) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def log_probabilities(model: Any, prompt: list[int], answer: list[int]) -> list[float]:
    """ln π of every token but the first, by softmax of plain logits of one row alone."""
    tokens = prompt + answer
    with torch.no_grad():
        found = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return [float(found[place, token]) for place, token in enumerate(tokens[1:])]


def by_hand(name: str, model: Any, some: list[PreferenceRow]) -> float:
    """The loss of a step of these rows, from the papers."""
    preference, surprise, tokens = 0.0, 0.0, 0
    for row in some:
        better = log_probabilities(model, row.prompt_ids, row.chosen_ids)
        worse = log_probabilities(model, row.prompt_ids, row.rejected_ids)
        liked = better if name == "ORPO" else better[-len(row.chosen_ids) :]
        surprise, tokens = surprise - sum(liked), tokens + len(liked)
        plus, minus = sum(better[-len(row.chosen_ids) :]), sum(worse[-len(row.rejected_ids) :])
        mean_plus, mean_minus = plus / len(row.chosen_ids), minus / len(row.rejected_ids)
        if name == "ORPO":
            odds = [exp(each) / (1 - exp(each)) for each in (mean_plus, mean_minus)]
            preference += 0.3 * minus_log_sigmoid(log(odds[0] / odds[1]))
        elif name == "CPO":
            preference += minus_log_sigmoid(0.2 * (plus - minus))
        else:
            preference += minus_log_sigmoid(2.5 * (mean_plus - mean_minus) - 0.4)
    weight = {"ORPO": 1.0, "CPO": 0.7, "SimPO": 0.0}[name]
    return preference / len(some) + weight * surprise / tokens


def minus_log_sigmoid(value: float) -> float:
    return log(1 + exp(-value))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_first_loss_follows_from_plain_logits(
    build: Any, model_folder: Path, name: str
) -> None:
    settings = replace(SETTINGS, batch_size=10, micro_batch_size=5, total_steps=1)
    trainer = build(OBJECTIVES[name], settings)
    expected = by_hand(name, AutoModelForCausalLM.from_pretrained(model_folder), rows(10))
    assert losses(trainer)[0] == pytest.approx(expected, abs=1e-5)
    assert trainer.unchanged == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_is_the_same_however_a_step_is_split(build: Any, name: str) -> None:
    # 10 rows in batches of 4: the third step holds two.
    splits = [
        losses(build(OBJECTIVES[name], replace(SETTINGS, micro_batch_size=size)))
        for size in (4, 2, 1)
    ]
    assert splits[1] == pytest.approx(splits[0], abs=1e-5)
    assert splits[2] == pytest.approx(splits[0], abs=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_held_out_figures_are_of_each_pair_alone(build: Any, model_folder: Path, name: str) -> None:
    trainer = build(OBJECTIVES[name])
    trainer.model.eval()
    found = [
        trainer.pair_figures(trainer.batch(chunk))
        for chunk in pairs.chunks(trainer.eval_dataset, 3)
    ]
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    expected = [by_hand(name, model, [row]) for row in rows(7)]
    assert torch.cat([each.loss for each in found]).tolist() == pytest.approx(expected, abs=1e-5)


def test_odds_of_a_certain_answer_are_finite() -> None:
    sure = torch.tensor([0.0, -1e-9, -0.5, -30.0], requires_grad=True)
    found = objectives.log_odds(sure)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(sure.grad).all()
    assert float(found[3]) == pytest.approx(-30, abs=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_whole_run(laptop: Any, model_folder: Path, name: str) -> None:
    write_jsonl(laptop.folder / "data" / "train.jsonl", preferences(48))
    report = laptop.run(
        {
            "model.source": f"file://{model_folder}",
            "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
            "data.evaluation": {"fraction": 0.25},
            "method": {"type": name, name.lower(): BLOCKS[name]},
            "tuning": {"type": "Full" if name == "CPO" else "LoRA"},
            "training": {"learningRate": 3e-3, "maxSteps": 14, "batchSize": 8},
            "output.uri": f"file://{laptop.folder}/out",
        }
    ).report
    assert report.outcome == "Complete", report.message
    assert fast_paths(report) == ("fused", "none")
    found = report.evaluation
    metrics = {each.name: (float(each.before), float(each.after)) for each in found.metrics}
    assert float(found.loss_after) < float(found.loss_before)
    assert metrics["rewardAccuracy"][1] > max(0.7, metrics["rewardAccuracy"][0])
    assert metrics["rewardMargin"][1] > metrics["rewardMargin"][0]
    assert set(report.progress.metrics) >= {"rewardMargin", "rewardAccuracy"}
    prefers(laptop.folder / "out", model_folder, full=name == "CPO")


def prefers(output: Path, base: Path, *, full: bool) -> None:
    """The published model, plainly loaded, finds right answers likelier than wrong ones."""
    folder = Path(json.loads((output / "manifest.json").read_text())["prefix"][len("file://") :])
    model = AutoModelForCausalLM.from_pretrained(folder if full else base)
    if not full:
        model = PeftModel.from_pretrained(model, folder)
    tokenizer, right = AutoTokenizer.from_pretrained(folder), 0
    for row in preferences(20, seed=9):
        prompt = tokenizer(row["prompt"])["input_ids"]
        better, worse = (
            sum(log_probabilities(model, prompt, tokenizer(row[name])["input_ids"]))
            for name in ("chosen", "rejected")
        )
        right += better > worse
    assert right >= 14
