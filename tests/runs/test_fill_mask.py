"""Filling masks: what is hidden, how often, the same at each evaluation; whole runs, plain reloads."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import __main__ as program
from finetune_trainer.answers import Sampling
from finetune_trainer.commands import evaluate, generate
from finetune_trainer.commands.output import Stores
from finetune_trainer.commands.prompts import Asked
from finetune_trainer.data.rows import IGNORED, TokenRow
from finetune_trainer.supervised.collators import MaskingCollator
from support.tiny_models import pairs, tiny_model, tokenizer_for, write_jsonl

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def run(laptop: Any, bert: Path) -> Run:
    """Runs a job on texts; gives its report."""
    texts = [{"text": each["prompt"] + each["completion"]} for each in pairs(96)]
    write_jsonl(laptop.folder / "data" / "train.jsonl", texts)

    def start(model: Path = bert, **changes: Any) -> Any:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return laptop.run(
            {
                "model": {"source": f"file://{model}", "task": "fill-mask"},
                "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
                "data.evaluation": {"fraction": 0.25},
                "training": {"learningRate": 3e-3, "maxSteps": 80, "batchSize": 16},
                "output.uri": f"file://{laptop.folder}/out",
                **named,
            }
        ).report

    return start


def published(laptop: Any) -> Path:
    return next((laptop.folder / "out" / "attempts").iterdir())


def command(output: Path, work: Any) -> tuple[int, str]:
    stream = io.StringIO()
    return program.run_command(str(output), Stores(), work, {}, stream), stream.getvalue()


def rows(count: int, length: int) -> list[TokenRow]:
    """Rows between [CLS] and [SEP], of which only the inner tokens may be hidden."""
    inner = list(range(20, 20 + length))
    ids, labels = [2, *inner, 3], [IGNORED, *inner, IGNORED]
    return [TokenRow(ids, labels, f"line {number}") for number in range(count)]


def test_what_is_hidden_and_how_often() -> None:
    tokenizer = tokenizer_for("bert")
    given = [*rows(400, 40), TokenRow([2, 50, 3], [IGNORED, 50, IGNORED], "short")]
    batch = MaskingCollator(tokenizer, 7).of_rows(given, "cpu")
    ids, labels = batch["input_ids"], batch["labels"]
    original = torch.tensor(given[0].input_ids)
    chosen = labels[:400] != IGNORED
    assert not chosen[:, [0, -1]].any()
    assert torch.equal(labels[:400][chosen], original.expand(400, -1)[chosen])
    assert torch.equal(ids[:400][~chosen], original.expand(400, -1)[~chosen])
    # 16 000 tokens: a share of 0.15 has a standard deviation of 0.003, one of 2400 of 0.01.
    assert float(chosen.float().mean()) * 42 / 40 == pytest.approx(0.15, abs=0.012)
    shown = ids[:400][chosen]
    masked = shown == tokenizer.mask_token_id
    same = shown == labels[:400][chosen]
    assert float(masked.float().mean()) == pytest.approx(0.8, abs=0.04)
    assert float(same.float().mean()) == pytest.approx(0.1, abs=0.03)
    # Padding is neither attended to nor guessed.
    assert batch["attention_mask"][-1].tolist() == [1] * 3 + [0] * 39
    assert (labels[-1, 3:] == IGNORED).all()


def test_draws_follow_the_seed_and_go_on() -> None:
    tokenizer, given = tokenizer_for("bert"), rows(4, 20)

    def draws(seed: int) -> list[list[list[int]]]:
        collator = MaskingCollator(tokenizer, seed)
        return [collator.of_rows(given, "cpu")["labels"].tolist() for _ in range(2)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert draws(1)[0] != draws(1)[1]


def test_no_batch_is_without_a_hidden_token() -> None:
    collator = MaskingCollator(tokenizer_for("bert"), 3)
    for _ in range(30):
        assert (collator.of_rows(rows(1, 1), "cpu")["labels"] != IGNORED).sum() == 1


@pytest.mark.parametrize("tuning", ["Full", "LoRA"])
def test_a_run_learns_to_guess(run: Run, laptop: Any, bert: Path, tuning: str) -> None:
    report = run(tuning__type=tuning)
    assert report.outcome == "Complete", report.message
    (metric,) = report.evaluation.metrics
    assert metric.name == "accuracy"
    assert float(metric.before) < 0.15
    assert float(metric.after) > 0.1
    assert float(report.evaluation.loss_after) < 0.65 * float(report.evaluation.loss_before)
    assert {c.field: c.value for c in report.resolved}["model.head"] == "from the base"
    folder = published(laptop)
    whole = folder if tuning == "Full" else bert
    plain = AutoModelForMaskedLM.from_pretrained(whole)
    if tuning == "LoRA":
        plain = PeftModel.from_pretrained(plain, str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = f"Thing 5 is red. Which colour? The {tokenizer.mask_token} of the thing is red."
    encoded = tokenizer(text, return_tensors="pt")
    place = encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    with torch.no_grad():
        logits = plain.eval()(**encoded).logits[0, place]
    wanted = generate.Wanted([Asked(text, "x")], Sampling(), json_lines=True)
    _, said = command(laptop.folder / "out", lambda p, f, s: generate.run(f, wanted, p, s))
    best = json.loads(said)["answer"][0]
    assert best["token"] == tokenizer.decode([int(logits.argmax())]).strip()
    assert best["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-4)
    code, said = command(laptop.folder / "out", lambda p, f, s: evaluate.run(f, p, s))
    assert code == 0, said
    assert said.count(" same") == 2


def test_an_adapter_needs_a_base_with_the_head(run: Run, bert: Path, tmp_path: Path) -> None:
    headless = Path(shutil.copytree(bert, tmp_path / "headless"))
    weights = load_file(headless / "model.safetensors")
    body = {name: each for name, each in weights.items() if not name.startswith("cls.")}
    save_file(body, headless / "model.safetensors", metadata={"format": "pt"})
    report = run(headless, tuning__type="LoRA")
    assert report.reason is Reason.UNSUPPORTED_MODEL
    assert "no head that fills masks" in report.message
    report = run(headless, tuning__type="Full", training={"maxSteps": 2})
    assert report.outcome == "Complete", report.message
    assert {c.field: c.value for c in report.resolved}["model.head"] == "fresh"
