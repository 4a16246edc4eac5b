"""Recipes: one module a training method, and the course of a run that they share.

Looked up by `spec.method.type` and `spec.model.task`. A recipe imports torch, so its module is loaded
by name, and only when the cheap checks have passed.
"""

import importlib
from collections.abc import Callable
from typing import Any, Literal, cast

from finetune_api.records import Report
from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_trainer import libraries
from finetune_trainer.context import Context

Run = Callable[[Context], Report]
Stage = Literal["run", "preflight"]
"""Functions of `recipes.course`."""

# Method and task -> module of this folder and its class.
_RECIPES: dict[tuple[MethodType, Task], tuple[str, str]] = {
    ("SFT", "text-generation"): ("sft", "SFT"),
    ("SFT", "text2text-generation"): ("text2text", "Text2Text"),
    ("SFT", "text-classification"): ("text_classification", "TextClassification"),
    ("SFT", "token-classification"): ("token_classification", "TokenClassification"),
    ("SFT", "fill-mask"): ("fill_mask", "FillMask"),
    ("DPO", "text-generation"): ("dpo", "DPO"),
    ("IPO", "text-generation"): ("dpo", "IPO"),
    ("Reward", "text-generation"): ("reward", "Reward"),
    ("KTO", "text-generation"): ("kto", "KTO"),
    ("ORPO", "text-generation"): ("reference_free", "ORPO"),
    ("CPO", "text-generation"): ("reference_free", "CPO"),
    ("SimPO", "text-generation"): ("reference_free", "SimPO"),
    ("PPO", "text-generation"): ("ppo", "PPO"),
    ("GRPO", "text-generation"): ("grpo", "GRPO"),
    ("RLOO", "text-generation"): ("rloo", "RLOO"),
    ("Distillation", "text-generation"): ("distillation", "Distillation"),
}


def load(method: MethodType, task: Task, stage: Stage = "run") -> Run:
    """What runs (or only checks) a job of this method and task; takes seconds, for its libraries."""
    with libraries.uncollected():
        recipe = recipe_of(method, task)
        course = importlib.import_module(f"{__name__}.course")
    return cast("Run", lambda context: getattr(course, stage)(recipe, context))


def recipe_of(method: MethodType, task: Task) -> Any:  # noqa: ANN401
    """The `Recipe` of this method and task, whose class cannot be named before torch is there."""
    module, name = _RECIPES[method, task]
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)()
