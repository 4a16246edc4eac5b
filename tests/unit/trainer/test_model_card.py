"""The model card of every kind of output says how it is loaded, and by what it came to be."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.status import Evaluation, Metric, Plan, Resolved
from finetune_trainer.model_card import Facts, model_card
from finetune_trainer.sources import ModelSource
from support.jobs import spec

PREFERENCE = {"data.format": "Preference"}


def card(changes: dict[str, Any], base: ModelSource | None = None, **facts: Any) -> str:
    job = {"namespace": "team", "name": "demo", "uid": "1"}
    run = RunFile.model_validate({"job": job, "spec": spec(changes)})
    base = base or ModelSource.of_folder(Path("base"), "s3://models/base")
    given = {
        "resolved": [Resolved(field="training.epochs", value="a|b", why="few\nrows")],
        "plan": Plan(rows=5, supervised_tokens=7, truncated_rows=0, skipped_rows=1),
        "evaluation": None,
        "labels": None,
        **facts,
    }
    return model_card(Facts(run, base, **given))


def head(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(text.split("---\n")[1]))


@pytest.mark.parametrize(
    ("changes", "task", "library", "tags", "words"),
    [
        ({}, "text-generation", "peft", ["sft", "lora"], "AutoModelForCausalLM"),
        ({"tuning.type": "Full"}, "text-generation", "transformers", ["sft"], "AutoModelForCausalLM"),
        ({**PREFERENCE, "method.type": "Reward"}, "text-classification", "peft",
         ["reward", "lora"], "AutoModelForSequenceClassification"),
        ({**PREFERENCE, "method.type": "DPO"}, "text-generation", "peft", ["dpo", "lora"], "PeftModel"),
        ({"model.task": "text2text-generation"}, "text2text-generation", "peft", ["sft", "lora"],
         "AutoModelForSeq2SeqLM"),
        ({"model.task": "token-classification"}, "token-classification", "peft", ["sft", "lora"],
         "AutoModelForTokenClassification"),
        ({"model.task": "fill-mask"}, "fill-mask", "peft", ["sft", "lora"], "AutoModelForMaskedLM"),
    ],
)  # fmt: skip
def test_each_kind(
    changes: dict[str, Any], task: str, library: str, tags: list[str], words: str
) -> None:
    text = card(changes)
    found = head(text)
    assert (found["pipeline_tag"], found["library_name"], found["tags"]) == (task, library, tags)
    code = text.split("```python\n")[1].split("```")[0]
    assert words in code
    compile(code, "card", "exec")
    assert "| `training.epochs` | a\\|b | few rows |" in text


def test_a_chain_is_named_and_merged_in_order() -> None:
    base = ModelSource(
        "job://dpo", "s3://m/dpo", Path("base"), (Path("a"), Path("b")),
        chain=("s3://m/dpo", "s3://m/sft", "hf://org/name@abc"),
    )  # fmt: skip
    text = card({"model.source": "job://dpo"}, base)
    assert "It goes on from `s3://m/dpo` on `s3://m/sft` on `hf://org/name@abc`." in text
    assert text.count("merge_and_unload()") == 2


def test_classes_and_figures() -> None:
    figures = Evaluation(
        loss_before="2",
        loss_after="1",
        metrics=[Metric(name="accuracy", before="0.5", after="0.9")],
    )
    text = card({"model.task": "text-classification"}, evaluation=figures, labels=["a", "b", "c"])
    assert "num_labels=3" in text
    assert "| loss | 2 | 1 |\n| accuracy | 0.5 | 0.9 |\n" in text
