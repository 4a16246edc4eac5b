"""What all contestants are given: SmolLM2-135M, rows of uneven lengths, the order of the rows.

Prompts and answers are paragraphs of Python's own manual, which comes with Python: real sentences, of five
to some hundred tokens, that no change of this repository touches. They go with Python's version, which
the result names.
"""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from finetune_trainer.foreign import Foreign
from support.definition import ROOT

SEED = 42
_FEWEST, _MOST = 20, 700
Row = dict[str, Any]


@dataclass(frozen=True)
class Workplace:
    """A folder for data and outputs.

    Attributes:
        folder: Where.
        steps: Optimiser steps of a run.
        batch: Rows a step.
    """

    folder: Path
    steps: int
    batch: int

    @property
    def rows(self) -> int:
        """Rows of the data, such that no row is seen twice."""
        return (self.steps + 1) * self.batch

    def model(self) -> Path:
        """SmolLM2-135M-Instruct, converted once by example 01."""
        return _converted_model()

    def data(self, name: str, rows: Sequence[Row]) -> Path:
        """A file of rows."""
        path = self.folder / name / "train.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path


@cache
def _converted_model() -> Path:
    code = "import prepare; print(prepare.converted_model())"
    place = ROOT / "examples/01-kubectl-assistant"
    said = subprocess.check_output([sys.executable, "-c", code], cwd=place, text=True)
    return Path(said.splitlines()[-1])


def answers(count: int) -> list[Row]:
    """Prompts with an answer each: a paragraph, and the one that follows it on its page."""
    # No token can belong to both sides: the library and we would draw the line elsewhere.
    return [
        {"prompt": f"{before}\n\nNext:", "completion": f" {after}"}
        for before, after in _neighbours(2)[:count]
    ]


def preferences(count: int) -> list[Row]:
    """Pairs of answers to prompts longer than they: the next paragraph, and one from elsewhere."""
    runs = _neighbours(4)
    return [
        {
            "prompt": "\n\n".join(runs[number][:3]) + "\n\n",
            "chosen": runs[number][3],
            "rejected": runs[-1 - number][3],
        }
        for number in range(count)
    ]


def prompts(count: int) -> list[Row]:
    """Prompts alone: two paragraphs."""
    return [{"prompt": "\n\n".join(run) + "\n\n"} for run in _neighbours(2)[:count]]


@cache
def _neighbours(count: int) -> list[list[str]]:
    """So many paragraphs that stand after each other on a page, in an order that is always the same."""
    runs = [
        paragraphs[first : first + count]
        for paragraphs in map(_paragraphs, sorted(topics))
        for first in range(len(paragraphs) - count + 1)
    ]
    random.Random(SEED).shuffle(runs)  # noqa: S311
    return runs


def _paragraphs(page: str) -> list[str]:
    parts = (" ".join(part.split()) for part in topics[page].split("\n\n"))
    return [part for part in parts if _FEWEST < len(part) < _MOST]


def take_our_order(trainer: Foreign) -> None:
    """Give the peer's sampler our draws, so that both sides see the same rows in the same batches."""
    from finetune_trainer.resume.sampling import EpochSeeded

    theirs = trainer._get_train_sampler

    def ours(*arguments: Foreign, **named: Foreign) -> EpochSeeded:
        sampler = theirs(*arguments, **named)
        return EpochSeeded(sampler, SEED, lambda: int(trainer.state.epoch or 0))

    trainer._get_train_sampler = ours
