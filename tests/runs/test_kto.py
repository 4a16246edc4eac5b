"""KTO: losses by hand from plain logits, the strange answers, splits of a step, and whole runs."""

import json
import random
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainingArguments
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from finetune_api.v1alpha1.method import KTO
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.arguments_preference import judged_arguments
from finetune_trainer.data.rows import JudgedRow
from finetune_trainer.preference.judged import dataset, partners
from finetune_trainer.preference.judged_trainer import JudgedAnswers
from finetune_trainer.preference.pairs import chunks
from finetune_trainer.preference.reference import Reference
from support.fast_paths import fast_paths
from support.preference_data import SETTINGS, ids, judgements, preferences
from support.tiny_models import write_jsonl

BLOCK = KTO(beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.2)


def rows(count: int) -> list[JudgedRow]:
    draw = random.Random(0)  # noqa: S311
    return [JudgedRow(ids(draw), ids(draw), n % 3 > 0, f"line {n}") for n in range(count)]


@pytest.fixture
def build(model_folder: Path, tmp_path: Path) -> Any:
    """Makes a trainer on ten rows."""

    def make(settings: Any = SETTINGS, *, precompute: bool = True) -> JudgedAnswers:
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        torch.manual_seed(0)
        return JudgedAnswers(
            block=BLOCK,
            make_reference=lambda policy: Reference(policy, None, settings),
            precompute=precompute,
            settings=settings,
            model=get_peft_model(model, LORA),
            args=TrainingArguments(**judged_arguments(settings, tmp_path / "trainer")),
            train_dataset=dataset(rows(10), settings.batch_size),
            eval_dataset=dataset(rows(7), 7),
            data_collator=DataCollatorForUnpairedPreference(0),
        )

    return make


def losses(trainer: JudgedAnswers) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def log_probability(model: Any, prompt: list[int], answer: list[int]) -> float:
    """ln π of an answer, by softmax of plain logits of one row alone."""
    tokens = prompt + answer
    with torch.no_grad():
        found = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    places = range(len(prompt), len(tokens))
    return sum(float(found[place - 1, tokens[place]]) for place in places)


def by_hand(policy: Any, model_folder: Path, some: list[JudgedRow]) -> tuple[float, float]:
    """The mean loss of rows and z0, from the paper."""
    base = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    policy.eval()

    def ratio(row: JudgedRow, other: JudgedRow) -> float:
        pair = row.prompt_ids, other.completion_ids
        return log_probability(policy, *pair) - log_probability(base, *pair)

    strange = [ratio(row, some[number - 1]) for number, row in enumerate(some)]
    z0 = max(0.0, sum(strange) / len(some))
    total = 0.0
    for row in some:
        advantage = ratio(row, row) - z0 if row.desirable else z0 - ratio(row, row)
        total += (1.5 if row.desirable else 0.7) * (1 - 1 / (1 + exp(-0.3 * advantage)))
    return total / len(some), z0


def test_partners_are_of_the_same_step() -> None:
    assert partners(5, 5) == [4, 0, 1, 2, 3]
    assert partners(7, 3) == [2, 0, 1, 5, 3, 4, 5]


def test_the_first_loss_is_half_the_weights(build: Any) -> None:
    trainer = build()
    first = losses(trainer)[0]
    # Of the first four rows, three are good.
    assert (trainer.desirable, trainer.undesirable) == (2, 2)
    assert first == pytest.approx(0.5 * (2 * 1.5 + 2 * 0.7) / 4, abs=1e-5)


def test_the_loss_follows_from_plain_logits(build: Any, model_folder: Path) -> None:
    settings = replace(SETTINGS, batch_size=10, micro_batch_size=5, total_steps=6)
    trainer = build(replace(settings, learning_rate=0.01))
    found = losses(trainer)
    assert found[-1] < found[0]
    # The last step's loss is of the weights before it, so another step on the same rows tells.
    expected, z0 = by_hand(trainer.model, model_folder, rows(10))
    assert z0 > 0
    trainer.args.max_steps, trainer.args.learning_rate = 1, 0.0
    trainer.optimizer, trainer.lr_scheduler = None, None
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert log["loss"] == pytest.approx(expected, abs=1e-5)
    assert log["kl"] == pytest.approx(z0, abs=1e-4)


def test_one_pass_teaches_what_two_teach_to_the_bit(build: Any) -> None:
    one, two = (build(replace(SETTINGS, learning_rate=0.01), precompute=False) for _ in range(2))
    assert [each.value for each in one.told_in_steps()] == ["one pass for policy and reference"]
    two.against_one_pass = "to see what it is without"
    assert losses(one) == losses(two)


@pytest.mark.parametrize("precompute", [True, False])
def test_loss_is_the_same_however_a_step_is_split(build: Any, precompute: bool) -> None:
    # 10 rows in batches of 4: the third step holds two.
    splits = [
        losses(build(replace(SETTINGS, micro_batch_size=size, learning_rate=0.01), precompute=kept))
        for size, kept in ((4, True), (2, precompute), (1, precompute))
    ]
    assert splits[1] == pytest.approx(splits[0], abs=1e-5)
    assert splits[2] == pytest.approx(splits[0], abs=1e-5)


def test_held_out_figures_do_not_depend_on_batches(build: Any, model_folder: Path) -> None:
    trainer = build(replace(SETTINGS, learning_rate=0.01))
    trainer.train()
    trainer.model.eval()
    found = [
        trainer.measures(
            [trainer.ratios(trainer.batch(c)) for c in chunks(trainer.eval_dataset, size)]
        )
        for size in (1, 3, 7)
    ]
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)
    expected, z0 = by_hand(trainer.model, model_folder, rows(7))
    assert found[0]["loss"] == pytest.approx(expected, abs=1e-5)
    assert found[0]["kl"] == pytest.approx(z0, abs=1e-4)


@pytest.fixture
def run(laptop: Any, model_folder: Path) -> Any:
    """Runs KTO on rows; gives the report."""

    def start(data: list[dict[str, Any]], **changes: Any) -> Any:
        write_jsonl(laptop.folder / "data" / "train.jsonl", data)
        return laptop.run(
            {
                "model.source": f"file://{model_folder}",
                "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
                "data.evaluation": {"fraction": 0.25},
                "method": {"type": "KTO", "kto": {"beta": 0.5}},
                "training": {"learningRate": 3e-3, "maxSteps": 14, "batchSize": 8},
                "output.uri": f"file://{laptop.folder}/out",
                **{name.replace("__", "."): value for name, value in changes.items()},
            }
        ).report

    return start


def verdicts(count: int) -> list[dict[str, Any]]:
    """Answers that are good, and refusals that are not."""
    return [
        {
            "prompt": row["prompt"],
            "completion": "But why would I know?" if number % 2 else row["chosen"],
            "label": number % 2 == 0,
        }
        for number, row in enumerate(preferences(count))
    ]


def test_a_whole_run(run: Any, laptop: Any) -> None:
    report = run(verdicts(64))
    assert report.outcome == "Complete", report.message
    found = report.evaluation
    metrics = {each.name: (float(each.before), float(each.after)) for each in found.metrics}
    assert found.loss_before == "0.5000"
    assert float(found.loss_after) < 0.45
    assert metrics["kl"][0] == metrics["rewardMargin"][0] == 0
    assert metrics["rewardMargin"][1] > 0.5
    assert set(report.progress.metrics) >= {"kl", "rewardMargin"}
    resolved = {choice.field: choice.value for choice in report.resolved}
    assert resolved["method.kto.reference"] == "the model before training"
    assert fast_paths(report) == ("fused", "none")
    manifest = json.loads((laptop.folder / "out" / "manifest.json").read_text())
    assert manifest["verification"]["maxLogitDifference"] < 1e-5


def test_full_tuning_by_weights_for_what_is_rare(run: Any) -> None:
    data = [{**row, "label": number % 4 > 0} for number, row in enumerate(judgements(40))]
    kto = {"desirableWeight": 0.5, "undesirableWeight": 1, "reference": {"precompute": False}}
    method = {"type": "KTO", "kto": kto}
    report = run(data, tuning={"type": "Full"}, method=method)
    assert report.outcome == "Complete", report.message
    resolved = {choice.field: choice.value for choice in report.resolved}
    assert resolved["method.kto.reference"] == "a frozen copy of the model"
    # Seven good rows to three bad ones, at half their weight.
    assert "method.kto.balance" not in resolved


def test_data_that_kto_cannot_learn_from(run: Any) -> None:
    one = run(judgements(24), training={"batchSize": 1})
    assert (one.reason, "the answer of another row" in one.message) == (Reason.INVALID_SPEC, True)
    rows = [{**row, "label": True} for row in judgements(24)]
    assert run(rows).reason is Reason.ONE_CLASS_ONLY
    unfit = run(preferences(24))
    assert unfit.outcome != "Complete"


def test_unequal_verdicts_are_told(run: Any) -> None:
    data = [{**row, "label": number % 4 > 0} for number, row in enumerate(judgements(40))]
    report = run(data, training={"batchSize": 8, "maxSteps": 1, "learningRate": 1e-4})
    balance = next(each for each in report.resolved if each.field == "method.kto.balance")
    good, bad = (float(part) for part in balance.value.split(" : "))
    assert good + bad == 30
    assert good > 2 * bad
