"""The preflight of the labelled tasks: everything but the weights' values is known without them."""

import io
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.__main__ import run_file
from finetune_trainer.run import check
from support.label_data import classes, tags
from support.tiny_models import pairs, tiny_model, write_jsonl

TEXTS = [{"text": row["prompt"]} for row in pairs(40)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models whose weights cannot be read."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("bert", "t5"):
        tiny_model(folder / family, family)
        (folder / family / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def preflight(laptop: Any, models: Path) -> Any:
    """Checks a job; gives its report."""

    def start(family: str, task: str, rows: list[dict[str, Any]], **changes: Any) -> Any:
        data = write_jsonl(laptop.folder / "data" / "train.jsonl", rows)
        file = laptop.manifest(
            {
                "model": {"source": f"file://{models}/{family}", "task": task},
                "data.train": [{"source": f"file://{data}"}],
                "data.limits": {"maxDuplicates": 1},
                "output.uri": f"file://{laptop.folder}/out",
                **changes,
            }
        )
        variables = {"FINETUNE_SCRATCH": str(laptop.folder / "scratch")}
        return run_file(file, variables, io.StringIO(), partial(check, keep=None))

    return start


@pytest.mark.parametrize(
    ("family", "task", "rows"),
    [
        ("t5", "text2text-generation", pairs(40)),
        ("bert", "text-classification", classes(40)),
        ("bert", "token-classification", tags(40)),
        ("bert", "fill-mask", TEXTS),
    ],
)
def test_a_good_job_passes(
    preflight: Any, family: str, task: str, rows: list[dict[str, Any]]
) -> None:
    report = preflight(family, task, rows)
    assert report.reason is Reason.PREFLIGHT_PASSED, report.message
    assert 0 < report.plan.trainable_parameters < report.plan.total_parameters
    assert report.plan.estimated_memory_bytes > 0


def test_parameters_count_the_head_that_the_classes_need(preflight: Any, models: Path) -> None:
    changes = {"tuning": {"type": "Full"}}
    plan = preflight("bert", "text-classification", classes(40), **changes).plan
    config = AutoConfig.from_pretrained(models / "bert", num_labels=4)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    assert plan.trainable_parameters == sum(each.numel() for each in model.parameters())


def test_a_model_without_the_head_is_refused(preflight: Any) -> None:
    report = preflight("t5", "fill-mask", TEXTS)
    assert report.outcome == "Failed"
    assert report.reason is Reason.UNSUPPORTED_COMBINATION
    report = preflight("bert", "text2text-generation", pairs(40))
    assert report.reason is Reason.UNSUPPORTED_COMBINATION


def test_an_adapter_for_masks_on_a_bare_encoder_is_refused(
    preflight: Any, models: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(models / "bert", tmp_path / "bare"))
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    changes = {"model.source": f"file://{bare}"}
    report = preflight("bert", "fill-mask", TEXTS, **changes)
    assert report.reason is Reason.UNSUPPORTED_MODEL
    assert "no head that fills masks" in report.message
    changes["tuning.type"] = "Full"
    report = preflight("bert", "fill-mask", TEXTS, **changes)
    assert report.reason is Reason.PREFLIGHT_PASSED, report.message
