"""Our losses against stock transformers trainers, step by step, with the same arguments in float32.

Dropout is off, and the stock collators and the models' own losses are used, so that whatever differs is
ours. Each step is one pass: over several, the stock mean is one of means, and ours is not.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from ruamel.yaml import YAML
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
    set_seed,
)

from finetune_trainer.__main__ import run_file
from support.jobs import manifest
from support.label_data import classes, tags
from support.tiny_models import COLOURS, pairs, tiny_model, write_jsonl

STEPS = 20
SETTINGS = {
    "learningRate": 1e-3,
    "maxSteps": STEPS,
    "batchSize": 8,
    "microBatchSize": 8,
    "logEverySteps": 1,
    "weightDecay": 0.01,
    "scheduler": {"type": "Linear", "warmupSteps": 2},
}


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a tiny model without dropout."""

    def make(family: str) -> Path:
        folder = tiny_model(tmp_path / family, family)
        config = json.loads((folder / "config.json").read_text())
        off = {name: 0.0 for name in config if "dropout" in name and "classifier" not in name}
        (folder / "config.json").write_text(json.dumps({**config, **off}))
        return folder

    return make


def ours(folder: Path, model: Path, task: str, rows: list[dict[str, Any]]) -> list[float]:
    changes = {
        "model": {"source": f"file://{model}", "task": task},
        "data.train": [{"source": f"file://{write_jsonl(folder / 'train.jsonl', rows)}"}],
        "data.limits": {"maxDuplicates": 1},
        "tuning.type": "Full",
        "training": SETTINGS,
        "output.uri": f"file://{folder}/out",
    }
    YAML().dump(manifest("parity", changes), folder / "job.yaml")
    variables = {"FINETUNE_SCRATCH": str(folder / "scratch")}
    report = run_file(folder / "job.yaml", variables, io.StringIO())
    assert report.outcome == "Complete", report.message
    log = next((folder / "out").rglob("training_log.jsonl")).read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, log) if "loss" in entry]


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "stock"),
        "per_device_train_batch_size": 8,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        "warmup_steps": 2,
        "seed": 42,
        "logging_steps": 1,
        "train_sampling_strategy": "group_by_length",
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def losses(trainer: Trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_text2text(tmp_path: Path, model: Callable[[str], Path]) -> None:
    folder, rows = model("t5"), pairs(64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(
        [row["prompt"] for row in rows], text_target=[row["completion"] for row in rows]
    )
    set_seed(42)
    net = AutoModelForSeq2SeqLM.from_pretrained(folder)
    trainer = Seq2SeqTrainer(
        model=net,
        args=Seq2SeqTrainingArguments(**arguments(tmp_path)),
        train_dataset=Dataset.from_dict(dict(encoded)),
        data_collator=DataCollatorForSeq2Seq(tokenizer, net),
        processing_class=tokenizer,
    )
    expected = losses(trainer)
    assert ours(tmp_path, folder, "text2text-generation", rows) == pytest.approx(expected, rel=1e-5)


def test_text_classification(tmp_path: Path, model: Callable[[str], Path]) -> None:
    folder, rows = model("bert"), classes(64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = sorted(COLOURS)
    encoded = {
        **tokenizer([row["text"] for row in rows], return_token_type_ids=False),
        "labels": [names.index(row["label"]) for row in rows],
    }
    set_seed(42)
    net = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=4)
    trainer = Trainer(
        model=net,
        args=TrainingArguments(**arguments(tmp_path)),
        train_dataset=Dataset.from_dict(encoded),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    expected = losses(trainer)
    assert ours(tmp_path, folder, "text-classification", rows) == pytest.approx(expected, rel=1e-5)


def test_token_classification(tmp_path: Path, model: Callable[[str], Path]) -> None:
    folder, rows = model("bert"), tags(64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [row["tokens"] for row in rows]
    encoded = tokenizer(words, is_split_into_words=True, return_token_type_ids=False)
    names = ["B-THING", "I-THING", "O"]
    labels = []
    for number, row in enumerate(rows):
        places = encoded.word_ids(number)
        first = [w is not None and (p == 0 or places[p - 1] != w) for p, w in enumerate(places)]
        labels.append(
            [names.index(row["tags"][w]) if f else -100 for f, w in zip(first, places, strict=True)]
        )
    set_seed(42)
    net = AutoModelForTokenClassification.from_pretrained(folder, num_labels=3)
    trainer = Trainer(
        model=net,
        args=TrainingArguments(**arguments(tmp_path)),
        train_dataset=Dataset.from_dict({**encoded, "labels": labels}),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
    )
    expected = losses(trainer)
    assert ours(tmp_path, folder, "token-classification", rows) == pytest.approx(expected, rel=1e-5)
