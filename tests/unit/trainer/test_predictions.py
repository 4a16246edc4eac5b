"""Classes, tags and fillings, against transformers' own pipelines on the same model."""

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

from finetune_trainer import predictions
from finetune_trainer.errors import TrainerError
from support.tiny_models import tiny_model, tokenizer_for

TEXT = "the colour of the thing is red"
LABELS = {0: "cold", 1: "warm", 2: "none"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("bert"), "bert")


def load(kind: Any, folder: Path, **config: Any) -> Any:
    return kind.from_pretrained(folder, **config).eval()


def test_classes(bert: Path) -> None:
    model = load(AutoModelForSequenceClassification, bert, num_labels=3, id2label=LABELS)
    tokenizer = tokenizer_for("bert")
    found = predictions.classes(model, tokenizer, TEXT)
    (expected,) = pipeline("text-classification", model, tokenizer=tokenizer, top_k=None)([TEXT])
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    assert [e["score"] for e in found] == pytest.approx([e["score"] for e in expected], abs=1e-5)


def test_a_reward_is_one_number(bert: Path) -> None:
    model = load(AutoModelForSequenceClassification, bert, num_labels=1)
    tokenizer = tokenizer_for("bert")
    (found,) = predictions.classes(model, tokenizer, TEXT)
    expected = model(**tokenizer(TEXT, return_tensors="pt")).logits.item()
    assert found == {"score": pytest.approx(expected, abs=1e-5)}


def test_tags(bert: Path) -> None:
    model = load(AutoModelForTokenClassification, bert, num_labels=3, id2label=LABELS)
    tokenizer = tokenizer_for("bert")
    found = predictions.tags(model, tokenizer, TEXT)
    assert [each["text"] for each in found] == TEXT.split()
    tagger = pipeline("token-classification", model, tokenizer=tokenizer, ignore_labels=[])
    first_of_word = {each["start"]: each for each in tagger(TEXT)}
    start = 0
    for each in found:
        assert each["label"] == first_of_word[start]["entity"]
        assert each["score"] == pytest.approx(first_of_word[start]["score"], abs=1e-5)
        start += len(each["text"]) + 1


def test_fillings(bert: Path) -> None:
    model, tokenizer = load(AutoModelForMaskedLM, bert), tokenizer_for("bert")
    masked = TEXT.replace("red", tokenizer.mask_token)
    found = predictions.fillings(model, tokenizer, masked)
    expected = pipeline("fill-mask", model, tokenizer=tokenizer)(masked)
    assert [each["token"] for each in found] == [each["token_str"] for each in expected]
    assert [e["score"] for e in found] == pytest.approx([e["score"] for e in expected], abs=1e-5)
    assert found[0]["text"] == masked.replace(tokenizer.mask_token, found[0]["token"])
    with pytest.raises(TrainerError, match="0 masks"):
        predictions.fillings(model, tokenizer, TEXT)
