"""What the last run of each cell of the matrix found; `test_matrix` compares it with the table."""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune_api.compatibility_page import cells
from finetune_api.v1alpha1.compatibility import Cell, verdict
from invariant.matrix.runner import Outcome

PATH = Path(__file__).with_name("record.json")
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
_PLAIN = ("method", "task", "tuning", "family")


def name_of(cell: Cell) -> str:
    """`SFT text-generation QLoRA llama quantization=NF4`.

    >>> name_of(Cell("SFT", "text-generation", "LoRA", "llama", variant="DoRA"))
    'SFT text-generation LoRA llama variant=DoRA'
    """
    fields = dataclasses.asdict(cell)
    more = [f"{key}={value}" for key, value in fields.items() if value and key not in _PLAIN]
    return " ".join([*(str(fields[key]) for key in _PLAIN), *more])


def contradiction(cell: Cell, *, works: bool) -> str | None:
    """What the table says that the run did not show; None if they agree."""
    refusal = verdict(cell)
    if refusal is None:
        return None if works else "the table says that it works"
    if works and not refusal.silent:
        return f"it works, but the table says: {refusal}"
    return None


def write(outcomes: list[Outcome]) -> None:
    """Keep what was found; cells that were not run stay as they were with the same libraries."""
    installed = {name: version(name) for name in LIBRARIES}
    kept = read() if PATH.exists() and versions() == installed else {}
    found = kept | {name_of(outcome.cell): outcome.ending[:160] for outcome in outcomes}
    ordered = {name: found[name] for name in map(name_of, cells()) if name in found}
    record = {"versions": installed, "cells": ordered}
    PATH.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read() -> dict[str, str]:
    """Ending of each cell, by its name."""
    found: dict[str, str] = _record()["cells"]
    return found


def versions() -> dict[str, str]:
    """Of the libraries that the cells were run with."""
    found: dict[str, str] = _record()["versions"]
    return found


def _record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PATH.read_text("utf-8"))
    return found
