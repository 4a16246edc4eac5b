"""Tags of words: entities by hand, labels at first pieces, whole runs, plain reloads."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForTokenClassification, AutoTokenizer

from finetune_trainer import __main__ as program
from finetune_trainer.answers import Sampling
from finetune_trainer.commands import evaluate, generate
from finetune_trainer.commands.output import Stores
from finetune_trainer.commands.prompts import Asked
from finetune_trainer.supervised.entities import are_entity_tags, count_entities, entities
from support.label_data import tags
from support.tiny_models import tiny_model, write_jsonl

NAMES = ["B-THING", "I-THING", "O"]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def run(laptop: Any, bert: Path) -> Run:
    """Runs a job on tagged words; gives its report."""

    def start(scheme: str = "entities", **changes: Any) -> Any:
        write_jsonl(laptop.folder / "data" / "train.jsonl", tags(80, scheme=scheme))
        named = {name.replace("__", "."): value for name, value in changes.items()}
        outcome = laptop.run(
            {
                "model": {"source": f"file://{bert}", "task": "token-classification"},
                "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
                "data.evaluation": {"fraction": 0.25},
                "data.limits": {"maxLeaked": 1, "maxDuplicates": 1},
                "training": {"learningRate": 2e-3, "maxSteps": 30, "batchSize": 8},
                "output.uri": f"file://{laptop.folder}/out",
                **named,
            }
        )
        assert outcome.report.outcome == "Complete", outcome.report.message
        return outcome.report

    return start


def published(laptop: Any) -> Path:
    return next((laptop.folder / "out" / "attempts").iterdir())


def figures(report: Any) -> dict[str, tuple[float, float]]:
    return {
        each.name: (float(each.before), float(each.after)) for each in report.evaluation.metrics
    }


def command(output: Path, work: Any) -> tuple[int, str]:
    stream = io.StringIO()
    return program.run_command(str(output), Stores(), work, {}, stream), stream.getvalue()


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("O B-A I-A O", {("A", 1, 2)}),
        ("B-A B-A I-A", {("A", 0, 0), ("A", 1, 2)}),
        # What continues nothing, or another kind, begins.
        ("I-A I-A O I-B", {("A", 0, 1), ("B", 3, 3)}),
        ("B-A I-B I-B", {("A", 0, 0), ("B", 1, 2)}),
        ("O O", set()),
    ],
)
def test_entities_by_hand(sequence: str, expected: set[tuple[str, int, int]]) -> None:
    assert entities(sequence.split()) == expected


def test_an_entity_is_found_as_a_whole_or_not() -> None:
    right = [["B-A", "I-A", "O", "B-B"], ["O", "B-A"]]
    said = [["B-A", "O", "O", "B-B"], ["B-A", "B-A"]]
    counts = count_entities(right, said)
    # Found: A 0-0 (too short), B 3-3, then A 0-0 (not there), A 1-1.
    assert (counts.hits, counts.found, counts.there) == (2, 4, 3)
    assert (counts.precision, counts.recall) == (0.5, pytest.approx(2 / 3))
    assert counts.f1 == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("names", "verdict"),
    [
        (["B-A", "I-A", "O"], True),
        (["B-A", "O"], True),
        (["O", "I-A"], False),
        (["NOUN", "VERB"], False),
        (["B-A", "O", "X"], False),
        (["0", "1"], False),
    ],
)
def test_what_are_tags_of_entities(names: list[str], verdict: bool) -> None:
    assert are_entity_tags(names) is verdict


def test_an_adapter_finds_entities(run: Run, laptop: Any, bert: Path) -> None:
    report = run(tuning={"type": "LoRA"}, training__learningRate=5e-3)
    found = figures(report)
    assert set(found) == {"accuracy", "precision", "recall", "f1"}
    assert found["f1"][0] < 0.5
    assert found["f1"][1] > 0.9
    folder = published(laptop)
    plain = PeftModel.from_pretrained(
        AutoModelForTokenClassification.from_pretrained(bert, num_labels=3), str(folder)
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    [row] = tags(1, seed=9)
    encoded = tokenizer([row["tokens"]], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        logits = plain(**encoded).logits[0]
    # The first piece of each word, as the tokenizer itself numbers words.
    words = encoded.word_ids(0)
    first = [place for place, word in enumerate(words) if word is not None]
    first = [place for place in first if place == 0 or words[place - 1] != words[place]]
    expected = [NAMES[int(logits[place].argmax())] for place in first]
    assert expected == row["tags"]
    wanted = generate.Wanted([Asked(" ".join(row["tokens"]), "x")], Sampling(), json_lines=True)
    _, said = command(laptop.folder / "out", lambda p, f, s: generate.run(f, wanted, p, s))
    assert [each["label"] for each in json.loads(said)["answer"]] == expected
    code, said = command(laptop.folder / "out", lambda p, f, s: evaluate.run(f, p, s))
    assert code == 0, said
    assert said.count(" same") == 5


def test_all_weights_and_tags_of_another_kind(run: Run, laptop: Any) -> None:
    settings = {"learningRate": 1e-3, "maxSteps": 50, "batchSize": 8, "microBatchSize": 4}
    report = run("words", tuning__type="Full", training=settings)
    found = figures(report)
    assert set(found) == {"accuracy", "f1"}
    assert found["f1"][1] > 0.9
    plain = AutoModelForTokenClassification.from_pretrained(published(laptop)).eval()
    assert plain.config.id2label == {0: "COLOUR", 1: "QUESTION"}
