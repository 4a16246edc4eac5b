"""Reward models: the loss by hand, which token is read, and outputs that PPO can use."""

import io
import json
import random
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
from trl import RewardConfig

import finetune_trainer.__main__ as program
from finetune_trainer.arguments_preference import reward_arguments
from finetune_trainer.commands import evaluate
from finetune_trainer.commands.output import Stores
from finetune_trainer.data.rows import PreferenceRow
from finetune_trainer.preference import pairs
from finetune_trainer.preference.pairs import dataset
from finetune_trainer.preference.reward_trainer import PairCollator, ScoredPairs
from finetune_trainer.recipes.reward import Reward
from support.fast_paths import fast_paths
from support.preference_data import SETTINGS, ids, manners
from support.tiny_models import pairs as prompts
from support.tiny_models import tiny_model, write_jsonl

PAD = 1  # <|im_start|>, which ends no row


def rows(count: int) -> list[PreferenceRow]:
    draw = random.Random(0)  # noqa: S311
    return [PreferenceRow(ids(draw), ids(draw), ids(draw), f"line {n}") for n in range(count)]


def fresh(folder: Path) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)


@pytest.fixture
def build(model_folder: Path, tmp_path: Path) -> Any:
    """Makes a trainer on ten rows."""

    def make(settings: Any, center: float = 0.0, *, full: bool = False) -> ScoredPairs:
        model = fresh(model_folder)
        if not full:
            lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS")
            model = get_peft_model(model, lora)
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        tokenizer.pad_token_id = PAD
        return ScoredPairs(
            settings=settings,
            center=center,
            model=model,
            args=RewardConfig(**reward_arguments(settings, tmp_path / "trainer", center)),
            train_dataset=dataset(rows(10)),
            eval_dataset=dataset(rows(7)),
            processing_class=tokenizer,
            data_collator=PairCollator(PAD),
        )

    return make


def losses(trainer: ScoredPairs) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def by_hand(model: Any, row: PreferenceRow, center: float) -> float:
    scores = []
    for answer in (row.chosen_ids, row.rejected_ids):
        tokens = torch.tensor([row.prompt_ids + answer])
        hidden = model.model(tokens).last_hidden_state[0, -1]
        scores.append(float(hidden @ model.score.weight[0]))
    better, worse = scores
    return log(1 + torch.tensor(worse - better).exp().item()) + center * (better + worse) ** 2


def test_the_loss_is_that_of_bradley_and_terry(build: Any, model_folder: Path) -> None:
    trainer = build(replace(SETTINGS, batch_size=10, micro_batch_size=5, total_steps=1), 0.3)
    model = fresh(model_folder).eval()
    with torch.no_grad():
        expected = [by_hand(model, row, 0.3) for row in rows(10)]
    mean = sum(expected) / 10
    assert losses(trainer)[0] == pytest.approx(mean, abs=1e-5)
    assert trainer.unchanged == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("full", [False, True])
def test_held_out_figures_are_of_each_pair_alone(
    build: Any, model_folder: Path, full: bool
) -> None:
    trainer = build(SETTINGS, 0.1, full=full)
    trainer.model.eval()
    found = [
        trainer.pair_figures(trainer.batch(chunk))
        for chunk in pairs.chunks(trainer.eval_dataset, 3)
    ]
    model = fresh(model_folder).eval()
    with torch.no_grad():
        expected = [by_hand(model, row, 0.1) for row in rows(7)]
    assert torch.cat([each.loss for each in found]).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pad_ends_rows", [False, True])
def test_packed_rows_score_as_padded_ones(build: Any, pad_ends_rows: bool) -> None:
    trainer = build(SETTINGS)
    batch = trainer.batch(trainer.train_dataset.to_list())
    if pad_ends_rows:
        # An answer may end with the pad token, and is then read before it.
        ids, there = batch["input_ids"], batch["attention_mask"].bool()
        trainer.model.config.pad_token_id = int(ids[0][there[0]][-1])
        ids[~there] = trainer.model.config.pad_token_id
    found = {}
    for packed in ({}, {"packed": True}):
        trainer.model.zero_grad()
        scores = trainer.model(**batch, **packed).logits
        (scores.squeeze(1) * torch.arange(len(scores))).sum().backward()
        named = trainer.model.named_parameters()
        gradients = torch.cat([each.grad.flatten() for _, each in named if each.grad is not None])
        found[bool(packed)] = scores.detach(), gradients
    torch.testing.assert_close(found[True][0], found[False][0])
    assert (found[True][1] - found[False][1]).norm() <= 1e-5 * found[False][1].norm()


def test_loss_is_the_same_however_a_step_is_split(build: Any) -> None:
    # 10 rows in batches of 4: the third step holds two.
    splits = [losses(build(replace(SETTINGS, micro_batch_size=size), 0.1)) for size in (4, 2, 1)]
    assert splits[1] == pytest.approx(splits[0], abs=1e-5)
    assert splits[2] == pytest.approx(splits[0], abs=1e-5)


def test_padding_is_no_token_that_ends_a_row(model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    notes = Reward().pad(tokenizer)
    assert tokenizer.pad_token not in ("<|im_end|>", None)
    assert [(note.field, note.value) for note in notes] == [("model.padToken", tokenizer.pad_token)]
    # The start token is the last choice.
    tokenizer.pad_token, tokenizer.bos_token = "<|im_end|>", "<|endoftext|>"
    Reward().pad(tokenizer)
    assert tokenizer.pad_token == "<|im_start|>"


def test_padding_where_no_token_is_to_spare() -> None:
    bpe = Tokenizer(models.BPE())
    bpe.add_special_tokens(["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>")
    (note,) = Reward().pad(tokenizer)
    assert (note.value, tokenizer.pad_token) == ("<end>", "<end>")
    assert "before the end" in note.why


@pytest.fixture
def run(laptop: Any, model_folder: Path) -> Any:
    """Trains a reward model; gives its report."""

    def start(**changes: Any) -> Any:
        write_jsonl(laptop.folder / "data" / "train.jsonl", manners(48))
        return laptop.run(
            {
                "model.source": f"file://{model_folder}",
                "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
                "data.evaluation": {"fraction": 0.25},
                "method": {"type": "Reward", "reward": {"centerCoefficient": 0.01}},
                "training": {"learningRate": 3e-3, "maxSteps": 16, "batchSize": 8},
                "output.uri": f"file://{laptop.folder}/out",
                **{name.replace("__", "."): value for name, value in changes.items()},
            }
        ).report

    return start


def published(folder: Path) -> tuple[Path, dict[str, Any]]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return Path(manifest["prefix"].removeprefix("file://")), manifest


def figures(report: Any) -> dict[str, tuple[float, float]]:
    assert report.outcome == "Complete", report.message
    assert fast_paths(report) == ("library", "none")
    found = report.evaluation
    metrics = {each.name: (float(each.before), float(each.after)) for each in found.metrics}
    return {**metrics, "loss": (float(found.loss_before), float(found.loss_after))}


def ordered(model: Any, folder: Path) -> int:
    """How many of twenty new pairs a plainly loaded model orders rightly, each text alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.eval()
    right = 0
    for row in manners(20, seed=9):
        texts = [row["prompt"] + row[name] + "<|im_end|>" for name in ("chosen", "rejected")]
        with torch.no_grad():
            better, worse = (
                float(model(**tokenizer(text, return_tensors="pt")).logits) for text in texts
            )
        right += better > worse
    return right


def test_an_adapter_is_published_with_its_head(
    run: Any, laptop: Any, model_folder: Path, tmp_path: Path
) -> None:
    found = figures(run())
    assert found["loss"][1] < found["loss"][0]
    assert found["rewardAccuracy"][1] > 0.8
    assert found["rewardMargin"][1] > 0.5
    assert {"meanReward", "chosenReward", "rejectedReward"} <= set(found)
    folder, manifest = published(laptop.folder / "out")
    assert manifest["labels"] == ["reward"]
    model = by_card(folder, model_folder)
    assert ordered(model, folder) >= 17
    assert same_in_a_batch(model, folder)
    # The new head of the model before training is drawn again as it was.
    assert evaluated_again(laptop.folder / "out") == 0
    policy_learns_from(laptop, tmp_path)


def by_card(folder: Path, base: Path) -> Any:
    """The model as its model card loads it, with the libraries alone."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("path/to/base", str(base)).replace("path/to/this/folder", str(folder)), names)  # noqa: S102
    return names["model"]


def same_in_a_batch(model: Any, folder: Path) -> bool:
    """Whether a short and a long text get the scores that each gets alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["red<|im_end|>", "The colour of the thing is red.<|im_end|>"]
    with torch.no_grad():
        both = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0]
        alone = [float(model(**tokenizer(text, return_tensors="pt")).logits) for text in texts]
    return both.tolist() == pytest.approx(alone, abs=1e-5)


def evaluated_again(output: Path) -> int:
    """Exit code of `finetune-trainer evaluate`, which is 0 if every figure is the same."""

    def work(place: Any, found: Any, stream: Any) -> None:
        evaluate.run(found, place, stream)

    return program.run_command(str(output), Stores(), work, {}, io.StringIO())


def policy_learns_from(laptop: Any, tmp_path: Path) -> None:
    """The reward model just published is one that PPO takes."""
    tiny_model(tmp_path / "policy", hidden=32, layers=1, positions=128)
    write_jsonl(laptop.folder / "prompts.jsonl", [{"prompt": r["prompt"]} for r in prompts(8)])
    ppo = {"rewardModel": f"file://{laptop.folder}/out", "generation": {"maxNewTokens": 4}}
    report = laptop.run(
        {
            "model.source": f"file://{tmp_path}/policy",
            "data.train": [{"source": f"file://{laptop.folder}/prompts.jsonl"}],
            "data.evaluation": {"fraction": 0.25},
            "method": {"type": "PPO", "ppo": ppo},
            "training": {"maxSteps": 2, "batchSize": 4, "learningRate": 1e-3},
            "output.uri": f"file://{laptop.folder}/tuned",
        }
    ).report
    assert report.outcome == "Complete", report.message
    assert "reward" in {each.name for each in report.evaluation.metrics}


def test_all_weights_are_published_as_one_model(run: Any, laptop: Any) -> None:
    found = figures(run(tuning={"type": "Full"}))
    assert found["rewardAccuracy"][1] > 0.8
    folder, _ = published(laptop.folder / "out")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 1
    assert ordered(model, folder) >= 17
