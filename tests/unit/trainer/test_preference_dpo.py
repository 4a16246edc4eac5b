"""DPO: finished ids, the reference, each loss where it is known, and means over the whole step."""

import random
import re
from dataclasses import fields, replace
from math import isnan, log
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from finetune_api.v1alpha1.method import DPO, WeightedLoss
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.arguments_preference import DPO_LOSSES, dpo_arguments, likelihood
from finetune_trainer.data.mapped import longest_first
from finetune_trainer.data.rows import PreferenceRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.preference import pairs
from finetune_trainer.preference.dpo_trainer import ReferencedPairs
from finetune_trainer.preference.known_answers import AT_REFERENCE
from finetune_trainer.preference.reference import Reference
from finetune_trainer.resolve import Settings
from finetune_trainer.resume.sampling import EpochSeeded
from support.preference_data import SETTINGS, ids

LN2 = log(2)
SMOOTHED = ("ExoPair", "Robust", "AOT", "AOTUnpaired")


def rows(count: int) -> list[PreferenceRow]:
    draw = random.Random(0)  # noqa: S311
    return [PreferenceRow(ids(draw), ids(draw), ids(draw), f"line {n}") for n in range(count)]


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> Any:
    found = AutoTokenizer.from_pretrained(model_folder)
    found.pad_token = found.eos_token
    return found


@pytest.fixture
def build(model_folder: Path, tokenizer: Any, tmp_path: Path) -> Any:
    """Makes a trainer on ten rows."""

    def make(block: DPO, settings: Settings = SETTINGS, **options: Any) -> ReferencedPairs:
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        if tuning := options.get("tuning", lora()):
            torch.manual_seed(0)
            model = get_peft_model(model, tuning)
        return ReferencedPairs(
            settings=settings,
            make_reference=lambda policy: Reference(policy, options.get("other"), settings),
            precompute=options.get("precompute", True),
            likelihood=likelihood(block.losses),
            model=model,
            args=DPOConfig(**dpo_arguments(settings, tmp_path / "trainer", block)),
            train_dataset=pairs.dataset(rows(10)),
            eval_dataset=pairs.dataset(longest_first(rows(7))),
            processing_class=tokenizer,
            data_collator=DataCollatorForPreference(tokenizer.pad_token_id),
        )

    return make


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.2)


def losses(trainer: ReferencedPairs) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def held_out(trainer: ReferencedPairs, size: int) -> Any:
    trainer.model.eval()
    chunks = pairs.chunks(trainer.eval_dataset, size)
    return pairs.measures([trainer.pair_figures(trainer.batch(chunk)) for chunk in chunks])


def block(*names: Any, beta: float = 0.3) -> DPO:
    smoothing = 0.1 if set(names) & set(SMOOTHED) else 0.0
    mixed = [WeightedLoss(type=name) for name in names]
    return DPO(losses=mixed, beta=beta, label_smoothing=smoothing)


def test_every_loss_and_argument_is_known_to_trl(tmp_path: Path) -> None:
    ours = get_args(WeightedLoss.model_fields["type"].annotation)
    assert set(DPO_LOSSES) == set(ours) == {*AT_REFERENCE, "SFT"}
    help_text = DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    assert set(DPO_LOSSES.values()) == set(re.findall(r"`'(\w+)'`", help_text))
    given = dpo_arguments(SETTINGS, tmp_path, block("Sigmoid"))
    assert set(given) <= {field.name for field in fields(DPOConfig)}


def test_constants_follow_from_the_papers() -> None:
    # At β = 0.3 and ε = 0.1, by hand: 1/(4·0.09), ½·ln(1/(4·0.1·0.9)), 1/(2·0.09), …
    expected = {
        "Sigmoid": LN2, "SigmoidNorm": LN2, "Robust": LN2, "AOT": LN2, "AOTUnpaired": LN2,
        "Hinge": 1, "APOZero": 1, "APODown": 1, "IPO": 2.7777778, "SPPOHard": 5.5555556,
        "NCAPair": 1.3862944, "BCOPair": 1.3862944, "DiscoPOP": 0.8465736, "ExoPair": 0.5108256,
    }  # fmt: skip
    found = {name: constant(0.3, 0.1) for name, constant in AT_REFERENCE.items()}
    assert found == pytest.approx(expected, abs=1e-6)


def test_every_loss_begins_where_it_must(build: Any) -> None:
    # TRL's formulas, asked about the real model: all losses of two equal policies.
    trainer = build(block("Sigmoid"))
    trainer.model.eval()
    batch = trainer.batch(next(pairs.chunks(trainer.eval_dataset, 3)))
    for name, constant in AT_REFERENCE.items():
        trainer.loss_types, trainer.loss_weights = [DPO_LOSSES[name]], [1.0]
        trainer.label_smoothing = 0.1
        figures = trainer.pair_figures(batch)
        assert figures.loss.tolist() == pytest.approx([constant(0.3, 0.1)] * 3, abs=1e-4), name
    assert pairs.measures([figures])["rewardAccuracy"] == 0.5


class SeenError(Exception):
    """Carries what reached the model."""


def test_the_model_gets_our_ids_and_masks(build: Any) -> None:
    trainer = build(block("Sigmoid"), replace(SETTINGS, micro_batch_size=4))
    row = {tuple(each.prompt_ids): each for each in rows(10)}

    def spy(**inputs: Any) -> Any:
        raise SeenError(inputs)

    trainer.model.forward = spy
    with pytest.raises(SeenError) as seen:
        trainer.train()
    inputs = seen.value.args[0]
    count, width = inputs["input_ids"].shape
    assert count == 8
    for number in range(count):
        length = int(inputs["attention_mask"][number].sum())
        labels = inputs["labels"][number].tolist()
        prompt = tuple(inputs["input_ids"][number].tolist()[: labels.count(-100) - width + length])
        answer = row[prompt].chosen_ids if number < 4 else row[prompt].rejected_ids
        assert inputs["input_ids"][number].tolist()[:length] == [*prompt, *answer]
        padding = [-100] * (width - length)
        assert labels == [-100] * len(prompt) + answer + padding


def test_loss_is_the_same_however_a_step_is_split(build: Any) -> None:
    mixture = DPO(losses=[WeightedLoss(type="Sigmoid"), WeightedLoss(type="SFT", weight=0.5)])
    # 10 rows in batches of 4: the third step holds two.
    splits = [
        losses(build(mixture, replace(SETTINGS, micro_batch_size=size), precompute=kept))
        for size, kept in ((4, True), (2, False), (1, True))
    ]
    assert splits[1] == pytest.approx(splits[0], abs=1e-5)
    assert splits[2] == pytest.approx(splits[0], abs=1e-5)


def test_held_out_figures_do_not_depend_on_batches(build: Any) -> None:
    trainer = build(block("Sigmoid", "IPO", "SFT"))
    before = held_out(trainer, 3)
    assert before["rewardAccuracy"] == 0.5
    assert before["rewardMargin"] == pytest.approx(0, abs=1e-5)
    trainer.train()
    sizes = [held_out(trainer, size) for size in (1, 3, 7)]
    assert sizes[1] == pytest.approx(sizes[0], abs=1e-5)
    assert sizes[2] == pytest.approx(sizes[0], abs=1e-5)
    assert sizes[0]["rewardMargin"] != 0


def test_the_reference_stays_where_the_policy_began(build: Any) -> None:
    trainer = build(block("Sigmoid"), replace(SETTINGS, learning_rate=0.05), precompute=False)
    batch = trainer.batch(next(pairs.chunks(trainer.train_dataset, 4)))
    at_start = trainer.reference.before_training(batch)
    trainer.train()
    assert torch.allclose(trainer.reference.in_training(batch), at_start, atol=1e-4)
    assert not torch.allclose(trainer.reference.before_training(batch), at_start, atol=1e-2)
    # TRL would have added a second adapter.
    assert list(trainer.model.peft_config) == ["default"]


def test_one_pass_teaches_what_two_teach_to_the_bit(build: Any) -> None:
    settings = replace(SETTINGS, learning_rate=0.05)
    one = build(block("Sigmoid", "IPO", "SFT"), settings, precompute=False)
    assert [each.value for each in one.told_in_steps()] == ["one pass for policy and reference"]
    two = build(block("Sigmoid", "IPO", "SFT"), settings, precompute=False)
    two.against_one_pass = "to see what it is without"
    assert losses(one) == losses(two)
    pairs_of = zip(one.model.named_parameters(), two.model.parameters(), strict=True)
    assert all(torch.equal(mine, other) for (_, mine), other in pairs_of)
    assert [each.why for each in two.told_in_steps()] == ["to see what it is without"]
    assert build(block("Sigmoid")).told_in_steps() == []


def test_only_rows_that_training_comes_to_are_asked_about(build: Any) -> None:
    settings = replace(SETTINGS, total_steps=2, learning_rate=0.05)
    in_each_step = losses(build(block("Sigmoid"), settings, precompute=False))
    trainer = build(block("Sigmoid"), settings)
    found = trainer.remember(None)
    assert (found.asked, found.rows, found.size) == (8, 10, 2 * 8 * 10)
    unasked = [value for value in trainer.train_dataset["ref_chosen_logps"] if isnan(value)]
    assert len(unasked) == 2
    assert trainer.reference is None
    assert losses(trainer) == pytest.approx(in_each_step, abs=1e-5)


def test_a_checkpoint_holds_what_the_reference_said(build: Any, tmp_path: Path) -> None:
    trainer = build(block("Sigmoid"), replace(SETTINGS, learning_rate=0.05))
    losses(trainer)
    trainer.capture(tmp_path / "saved")
    again = build(block("Sigmoid"), replace(SETTINGS, micro_batch_size=1))
    assert again.remember(tmp_path / "saved").seconds is None
    for name in again.reference_columns:
        # To the bit, also where passes hold other rows than before.
        assert again.train_dataset[name] == trainer.train_dataset[name]
    assert again.remember(tmp_path / "saved") is None


def test_full_tuning_has_a_frozen_reference(build: Any, model_folder: Path) -> None:
    from trl.trainer.utils import add_fused_lm_head

    other = AutoModelForCausalLM.from_pretrained(model_folder).requires_grad_(False).eval()
    add_fused_lm_head(other)
    trainer = build(block("Sigmoid"), tuning=None, other=other, precompute=False)
    assert trainer.told_in_steps()[0].why == "the reference is another model"
    kept = losses(trainer)
    once = losses(build(block("Sigmoid"), tuning=None))
    assert kept == pytest.approx(once, abs=1e-5)
    assert once[0] == pytest.approx(LN2, abs=1e-5)


def test_an_adapter_that_starts_elsewhere(build: Any) -> None:
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    assert losses(build(block("Sigmoid"), tuning=prompt))[0] == pytest.approx(LN2, abs=1e-5)
    with pytest.raises(TrainerError) as caught:
        build(block("Sigmoid"), tuning=prompt, precompute=False)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert "does not start at the base model" in caught.value.message


def test_stock_trl_agrees(build: Any, tokenizer: Any, model_folder: Path, tmp_path: Path) -> None:
    class OnIds(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *arguments: Any) -> EpochSeeded:
            # Our draws: what is compared is what is learnt from the same rows.
            return EpochSeeded(super()._get_train_sampler(*arguments), SETTINGS.seed, lambda: 0)

    settings = replace(SETTINGS, micro_batch_size=4, total_steps=2)
    torch.manual_seed(0)
    stock = OnIds(
        model=get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), lora()),
        args=DPOConfig(**dpo_arguments(settings, tmp_path / "stock", block("APOZero", "Hinge"))),
        train_dataset=pairs.dataset(rows(10)),
        processing_class=tokenizer,
    )
    stock.train()
    expected = [entry["loss"] for entry in stock.state.log_history if "loss" in entry]
    assert losses(build(block("APOZero", "Hinge"), settings)) == pytest.approx(expected, abs=1e-5)
