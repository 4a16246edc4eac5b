"""Classification of texts: figures by hand, whole runs on encoders and decoders, plain reloads."""

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
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune_trainer import __main__ as program
from finetune_trainer.answers import Sampling
from finetune_trainer.commands import chat, evaluate, generate
from finetune_trainer.commands.output import Stores
from finetune_trainer.commands.prompts import Asked
from finetune_trainer.data.rows import ClassRow
from finetune_trainer.supervised.collators import ClassCollator
from finetune_trainer.supervised.metrics import Counts, accuracy, macro_f1
from support.fast_paths import fast_paths
from support.label_data import classes
from support.tiny_models import COLOURS, tiny_model, write_jsonl

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def run(laptop: Any) -> Run:
    """Runs a job on texts with classes; gives its report."""
    write_jsonl(laptop.folder / "data" / "train.jsonl", classes(64))

    def start(model: Path, output: str = "out", **changes: Any) -> Any:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        outcome = laptop.run(
            {
                "model": {"source": f"file://{model}", "task": "text-classification"},
                "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
                "data.evaluation": {"fraction": 0.25},
                "training": {"learningRate": 1e-3, "maxSteps": 45, "batchSize": 8},
                "output.uri": f"file://{laptop.folder}/{output}",
                **named,
            }
        )
        assert outcome.report.outcome == "Complete", outcome.report.message
        return outcome.report

    return start


def published(laptop: Any, output: str = "out") -> Path:
    return next((laptop.folder / output / "attempts").iterdir())


def figures(report: Any) -> dict[str, tuple[float, float]]:
    found = report.evaluation
    metrics = {each.name: (float(each.before), float(each.after)) for each in found.metrics}
    return {**metrics, "loss": (float(found.loss_before), float(found.loss_after))}


def resolved(report: Any) -> dict[str, str]:
    return {choice.field: choice.value for choice in report.resolved}


def command(output: Path, work: Any) -> tuple[int, str]:
    stream = io.StringIO()
    return program.run_command(str(output), Stores(), work, {}, stream), stream.getvalue()


def plainly_right(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Loss and share of right answers, one row at a time, by plain libraries."""
    loss, right = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model.eval()(**tokenizer(row["text"], return_tensors="pt")).logits[0]
        label = COLOURS_SORTED.index(row["label"])
        loss -= float(logits.log_softmax(-1)[label])
        right += int(logits.argmax()) == label
    return loss / len(rows), right / len(rows)


COLOURS_SORTED = sorted(COLOURS)


def test_figures_by_hand() -> None:
    # Class 0: right twice, said once, hit once. Class 1: right once, said twice, hit once. 2: 1, 1, 1.
    pairs = [(0, 0), (0, 1), (1, 1), (2, 2)]
    assert accuracy(pairs) == 0.75
    assert macro_f1(pairs) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert macro_f1([(0, 1), (1, 0)]) == 0
    counts = Counts(hits=3, found=4, there=6)
    assert (counts.precision, counts.recall, counts.f1) == (0.75, 0.5, pytest.approx(0.6))
    assert Counts(0, 0, 0).f1 == Counts(0, 0, 0).precision == 0
    assert macro_f1([]) == accuracy([]) == 0


def test_batches_tell_segments_only_to_models_that_ask() -> None:
    rows = [ClassRow([2, 7, 3, 8, 3], 1, "a", [0, 0, 0, 1, 1]), ClassRow([2, 3], 0, "b")]
    batch = ClassCollator(9, segments=True).of_rows(rows, "cpu")
    assert batch["input_ids"].tolist() == [[2, 7, 3, 8, 3], [2, 3, 9, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1], [0] * 5]
    assert batch["labels"].tolist() == [1, 0]
    assert "token_type_ids" not in ClassCollator(9, segments=False).of_rows(rows, "cpu")
    assert "token_type_ids" not in ClassCollator(9, segments=True).of_rows(rows[1:], "cpu")


def test_all_weights_of_an_encoder(run: Run, laptop: Any, bert: Path) -> None:
    held_out = classes(24, seed=5)
    write_jsonl(laptop.folder / "data" / "test.jsonl", held_out)
    sources = [{"source": f"file://{laptop.folder}/data/test.jsonl"}]
    report = run(
        bert,
        tuning__type="Full",
        training__microBatchSize=2,
        data__evaluation={"sources": sources},
    )
    found = figures(report)
    assert found["accuracy"][0] < 0.6
    assert found["accuracy"][1] > 0.8
    assert found["f1"][1] > 0.8
    assert resolved(report)["model.head"] == "fresh"
    assert fast_paths(report) == ("library", "padded")
    labels = [row["label"] for row in classes(64)]
    assert report.plan.class_counts == {each: labels.count(each) for each in COLOURS_SORTED}
    folder = published(laptop)
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert plain.config.id2label == dict(enumerate(COLOURS_SORTED))
    assert plain.config.problem_type == "single_label_classification"
    loss, right = plainly_right(plain, AutoTokenizer.from_pretrained(folder), held_out)
    assert found["loss"][1] == pytest.approx(loss, abs=1e-4)
    assert found["accuracy"][1] == pytest.approx(right, abs=1e-4)
    again = run(folder, "again", training={"maxSteps": 2, "learningRate": 1e-5})
    assert resolved(again)["model.head"] == "from the base"
    assert figures(again)["accuracy"][0] > 0.8


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_an_adapter_and_its_new_head(
    run: Run, laptop: Any, tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_model(tmp_path / "model", family)
    settings = {"learningRate": 5e-3, "maxSteps": 30, "batchSize": 8}
    report = run(base, tuning={"type": "LoRA", "lora": {"rank": 8}}, training=settings)
    found = figures(report)
    assert found["accuracy"][1] > max(0.7, found["accuracy"][0])
    folder = published(laptop)
    manifest = json.loads((laptop.folder / "out" / "manifest.json").read_text())
    assert manifest["labels"] == COLOURS_SORTED
    plain = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(base, num_labels=4), str(folder)
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = classes(24, seed=5)
    _, right = plainly_right(plain, tokenizer, rows)
    assert right > 0.7
    wanted = generate.Wanted([Asked(rows[0]["text"], "x")], Sampling(), json_lines=True)
    code, said = command(laptop.folder / "out", lambda p, f, s: generate.run(f, wanted, p, s))
    assert code == 0
    (best, *_) = json.loads(said)["answer"]
    with torch.no_grad():
        logits = plain(**tokenizer(rows[0]["text"], return_tensors="pt")).logits[0]
    assert best["label"] == COLOURS_SORTED[int(logits.argmax())]
    assert best["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-4)
    code, said = command(laptop.folder / "out", lambda p, f, s: evaluate.run(f, p, s))
    assert code == 0, said
    assert said.count(" same") == 3
    code, _ = command(
        laptop.folder / "out",
        lambda p, f, s: chat.run(f, Sampling(), p, (io.StringIO(), s, io.StringIO())),
    )
    assert code != 0
    assert "a model that classifies texts" in capsys.readouterr().err


def test_virtual_tokens_are_stored_with_the_whole_new_head(
    run: Run, laptop: Any, bert: Path
) -> None:
    tuning = {"type": "PTuning", "virtualTokens": {"virtualTokens": 4}}
    run(bert, tuning=tuning, training={"maxSteps": 2, "batchSize": 8})
    stored = load_file(published(laptop) / "adapter_model.safetensors")
    # The base has neither, so both are new.
    assert {name for name in stored if "pooler" in name or "classifier" in name} == {
        f"base_model.{part}.{kind}"
        for part in ("bert.pooler.dense", "classifier")
        for kind in ("weight", "bias")
    }


def test_an_encoder_decoder_classifies(run: Run, laptop: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "model", "t5")
    settings = {"learningRate": 5e-3, "maxSteps": 30, "batchSize": 8}
    assert figures(run(base, training=settings))["accuracy"][1] > 0.7


def test_a_job_goes_on_from_an_adapter_with_its_classes(run: Run, laptop: Any, bert: Path) -> None:
    settings = {"learningRate": 5e-3, "maxSteps": 30, "batchSize": 8}
    first = run(bert, training=settings)
    source = laptop.folder / "out"
    again = run(source, "again", training={"maxSteps": 2, "learningRate": 1e-5})
    # The very rows that the first one was held against are held out again.
    assert figures(again)["loss"][0] == pytest.approx(figures(first)["loss"][1], abs=2e-4)
    assert resolved(again)["model.head"] == "from the base"


def test_other_classes_than_those_of_the_adapter(run: Run, laptop: Any, bert: Path) -> None:
    run(bert, training={"maxSteps": 1, "batchSize": 8})
    rows = [row for row in classes(64) if row["label"] in COLOURS[:3]]
    write_jsonl(laptop.folder / "data" / "train.jsonl", rows)
    with pytest.raises(AssertionError, match=r"a head for 4 classes .* but the rows have 3"):
        run(laptop.folder / "out", "again", training={"maxSteps": 2})
    # A whole model gets a new head instead.
    run(bert, "whole", tuning__type="Full", training={"maxSteps": 1, "batchSize": 8})
    write_jsonl(laptop.folder / "data" / "train.jsonl", classes(64))
    changed = run(laptop.folder / "whole", "new", training={"maxSteps": 1, "batchSize": 8})
    assert resolved(changed)["model.head"] == "fresh"


def test_early_stopping_looks_at_f1(run: Run, bert: Path) -> None:
    stopping = {"patience": 1, "threshold": 2.0}
    settings = {"maxSteps": 24, "batchSize": 8, "evaluateEverySteps": 2, "earlyStopping": stopping}
    report = run(bert, tuning__type="Full", training=settings)
    # No figure gets better by 2, so the second evaluation is the last.
    assert resolved(report)["training.earlyStopping"] == "stopped at step 4"


def test_a_body_of_another_shape_is_no_new_head(run: Run, bert: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(bert, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query.bias"
    weights[name] = weights[name][:32].clone()
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssertionError, match=r"query.bias \[32\] in place of \[64\]"):
        run(broken)
