"""A case of the benchmark: one method, trained by us and by its library's own trainer."""

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from finetune_trainer.foreign import Foreign
from support.jobs import manifest
from trainer.workplace import SEED, Workplace

OURS = "ours"
Train = Callable[[Workplace], None]


@dataclass(frozen=True)
class Case:
    """One method.

    Attributes:
        name: Of the method, and of what is special.
        contestants: Ours, and others by name; each trains in the process that it is called in.
        speeds: How many times as fast ours shall be, by contestant.
        tolerances: Largest difference of a step's loss from ours, by contestant; see `equality`.
        steps: Optimiser steps of a run, at least 2: the first does not count for speed.
        batch: Rows a step; in cases whose model answers, prompts.
        rounds: The most runs of each contestant, if this case has its own number.
        told: What a reader of its rows must know.
    """

    name: str
    contestants: Mapping[str, Train]
    speeds: Mapping[str, float]
    tolerances: Mapping[str, float] = field(default_factory=dict)
    steps: int = 2
    batch: int = 4
    rounds: int | None = None
    told: str = ""


def write_job(place: Workplace, name: str, data: Path, spec: Mapping[str, Any]) -> Path:
    """A manifest for our trainer.

    Args:
        place: Where it reads and writes.
        name: Of the case.
        data: Its rows.
        spec: What is particular to the case, at dotted paths.
    """
    changes = {
        "model.source": f"file://{place.model()}",
        "data.train": [{"source": f"file://{data}"}],
        "data.packing": "Disabled",
        "output.uri": f"file://{place.folder}/out/{name}-{os.getpid()}",
        "tracking": {"tensorboard": False},
        **spec,
        "training": {
            "maxSteps": place.steps,
            "batchSize": place.batch,
            "learningRate": 5e-4,
            "scheduler": {"type": "Constant"},
            "weightDecay": 0.0,
            "maxGradientNorm": 1.0,
            "seed": SEED,
            "logEverySteps": 1,
            **spec.get("training", {}),
        },
    }
    file = place.folder / f"{name}.yaml"
    YAML().dump(manifest(name.lower(), changes), file)
    return file


def run_job(place: Workplace, file: Path) -> None:
    """Train with us, as `finetune-trainer run` does."""
    from finetune_trainer.__main__ import run_file

    scratch = {"FINETUNE_SCRATCH": str(place.folder / f"scratch-{os.getpid()}")}
    report = run_file(file, {**os.environ, **scratch}, io.StringIO())
    if report.outcome != "Complete":
        raise SystemExit(f"{file.name}: {report.reason}: {report.message}")
    print(json.dumps([each.model_dump() for each in report.resolved or ()]))


def lora(task: str = "CAUSAL_LM") -> Foreign:
    """The adapter of all contestants."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type=task)


LORA: dict[str, Any] = {
    "type": "LoRA",
    "lora": {"rank": 16, "alpha": 32, "targets": ["all-linear"]},
}


def adapted(place: Workplace) -> Foreign:
    """The model with its adapter, drawn by the seed, as a user of the libraries makes it."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(place.model(), dtype=torch.float32)
    return get_peft_model(model, lora())


def library_arguments(place: Workplace) -> dict[str, Any]:
    """What a user of the library must say so that it does what our job says; all else is its default."""
    return {
        "output_dir": str(place.folder / "stock"),
        "per_device_train_batch_size": place.batch,
        "max_steps": place.steps,
        "learning_rate": 5e-4,
        "lr_scheduler_type": "constant_with_warmup",
        "max_grad_norm": 1.0,
        "seed": SEED,
        "use_cpu": True,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
