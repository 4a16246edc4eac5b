"""Recipes: one module a training method, each with `run(context) -> Report`.

Looked up by `spec.method.type`. A recipe imports torch, so its module is loaded by name, and only when
the cheap checks have passed.
"""

import importlib
from typing import Protocol, cast

from finetune_api.records import Report
from finetune_trainer.context import Context

_MODULES = {"SFT": "finetune_trainer.recipes.sft"}


class Recipe(Protocol):
    """A module of this folder."""

    def run(self, context: Context) -> Report:
        """Train, publish and verify; returns the report of success."""
        ...


def load(method: str) -> Recipe:
    """The recipe of a method; takes seconds, for the libraries that come with it."""
    return cast("Recipe", importlib.import_module(_MODULES[method]))
