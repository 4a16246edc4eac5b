"""What all contestants are given: SmolLM2-135M, rows of uneven lengths, the order of the rows.

Prompts and answers are paragraphs of this repository's own documentation: real sentences, of five to some
hundred tokens.
"""

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.foreign import Foreign
from support.definition import ROOT

SEED = 42
# Rows that differ from run to run would not be comparable with an older result.
_PAGES = ("concepts", "guides")
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
        code = "import prepare; print(prepare.converted_model())"
        place = ROOT / "examples/01-kubectl-assistant"
        said = subprocess.check_output([sys.executable, "-c", code], cwd=place, text=True)
        return Path(said.splitlines()[-1])

    def data(self, name: str, rows: Sequence[Row]) -> Path:
        """A file of rows."""
        path = self.folder / name / "train.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path


def answers(count: int) -> list[Row]:
    """Prompts with an answer each: a paragraph, and the one that follows it on its page."""
    rows = [
        # No token can belong to both sides: the library and we would draw the line elsewhere.
        {"prompt": f"{before}\n\nNext:", "completion": f" {after}"}
        for page in _pages()
        for before, after in itertools.pairwise(_paragraphs(page))
    ]
    random.Random(SEED).shuffle(rows)  # noqa: S311
    return [rows[number % len(rows)] for number in range(count)]


def preferences(count: int) -> list[Row]:
    """Pairs of answers to prompts longer than they: the next paragraph, and one from elsewhere."""
    pages = [list(_paragraphs(page)) for page in _pages()]
    runs = [
        paragraphs[first : first + 4]
        for paragraphs in pages
        for first in range(len(paragraphs) - 3)
    ]
    draw = random.Random(SEED)  # noqa: S311
    draw.shuffle(runs)
    return [
        {
            "prompt": "\n\n".join(runs[number][:3]) + "\n\n",
            "chosen": runs[number][3],
            "rejected": runs[-1 - number][3],
        }
        for number in range(count)
    ]


def _pages() -> list[Path]:
    return sorted(page for part in _PAGES for page in (ROOT / "docs" / part).glob("*.md"))


def _paragraphs(page: Path) -> Iterator[str]:
    for part in page.read_text("utf-8").split("\n\n"):
        if _FEWEST < len(part) < _MOST and not part.startswith("#"):
            yield part.strip()


def take_our_order(trainer: Foreign) -> None:
    """Give the peer's sampler our draws, so that both sides see the same rows in the same batches."""
    from finetune_trainer.resume.sampling import EpochSeeded

    theirs = trainer._get_train_sampler

    def ours(*arguments: Foreign, **named: Foreign) -> EpochSeeded:
        sampler = theirs(*arguments, **named)
        return EpochSeeded(sampler, SEED, lambda: int(trainer.state.epoch or 0))

    trainer._get_train_sampler = ours
