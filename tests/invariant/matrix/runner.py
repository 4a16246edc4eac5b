"""Runs cells in this process, with the table's own refusals switched off."""

import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from finetune_api.v1alpha1 import compatibility
from finetune_api.v1alpha1.compatibility import Cell
from finetune_api.v1alpha1.job import FineTuneJobSpec
from invariant.matrix.jobs import Shelf, manifest_of

WORKS = "works"
# Cells of one process; then a new one begins, because libraries keep what they once loaded.
GROUP = 48


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        cell: What was run.
        ending: `works`, or reason and message of the failure.
        seconds: Wall clock.
    """

    cell: Cell
    ending: str
    seconds: float

    @property
    def works(self) -> bool:
        """Whether the run came to its end, its output read back and compared."""
        return self.ending == WORKS


def run(cells: list[Cell], processes: int) -> Iterator[Outcome]:
    """Run groups of cells, each in a fresh process; outcomes come in order."""
    groups = [cells[start : start + GROUP] for start in range(0, len(cells), GROUP)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, max_tasks_per_child=1) as pool:
        for outcomes in pool.map(run_group, groups):
            yield from outcomes


def run_group(cells: list[Cell]) -> list[Outcome]:
    """Run cells one after the other in this process."""
    _quietly()
    # By this name, transformers tells workers of a data loader, and asks them for a loader's seed.
    multiprocessing.current_process().name = "MainProcess"
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, _without_refusals():
        shelf = Shelf(Path(folder))
        return [_run(cell, shelf, f"cell-{number}") for number, cell in enumerate(cells)]


def _run(cell: Cell, shelf: Shelf, name: str) -> Outcome:
    from finetune_trainer.__main__ import run_file

    began = time.monotonic()
    shelf.folder.mkdir(exist_ok=True)
    file = shelf.folder / f"{name}.yaml"
    YAML().dump(manifest_of(cell, shelf, name), file)
    scratch = shelf.folder / "scratch"
    report = run_file(file, {"FINETUNE_SCRATCH": str(scratch)}, io.StringIO())
    shutil.rmtree(shelf.folder / "out" / name, ignore_errors=True)
    ending = WORKS if report.outcome == "Complete" else f"{report.reason}: {report.message}"
    # The record must not change with the folder.
    ending = ending.replace(str(shelf.folder), "")
    return Outcome(cell, ending, time.monotonic() - began)


def _quietly() -> None:
    # Libraries warn at length about what is wanted here.
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())


@contextmanager
def _without_refusals() -> Iterator[None]:
    """Specs are judged by all other rules, and the trainer lets everything through."""
    messages = {rule.message for rule in compatibility.rules()}
    kept, rows = FineTuneJobSpec.rules, compatibility.REFUSALS
    FineTuneJobSpec.rules = tuple(rule for rule in kept if rule.message not in messages)
    compatibility.REFUSALS = ()
    try:
        yield
    finally:
        FineTuneJobSpec.rules, compatibility.REFUSALS = kept, rows
