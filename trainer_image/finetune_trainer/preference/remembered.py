"""What the reference says of every row, asked once before the first step and kept from then on.

Mixed into the trainers of DPO and KTO. Rows and reference are fixed, so that no epoch need ask again, and no
attempt: the answers are in each checkpoint. Processes divide the rows among them. Where training ends
within the first epoch, only rows that it comes to are asked about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from datasets import Dataset

from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import processes
from finetune_trainer.fast import told
from finetune_trainer.foreign import Foreign
from finetune_trainer.preference.reference import Reference
from finetune_trainer.resolve import Settings
from finetune_trainer.resume import tree

_FILE = "reference"
Columns = dict[str, torch.Tensor]
"""Log-probabilities by the name of their column, each of shape (rows,)."""


@dataclass(frozen=True)
class Remembered:
    """What was asked, for the status.

    Attributes:
        asked: Rows that the reference was asked about.
        rows: All rows.
        size: Bytes of all columns.
        seconds: How long it took; None if the answers were in the checkpoint.
    """

    asked: int
    rows: int
    size: int
    seconds: float | None

    def told(self, field: str) -> Resolved:
        """The same in words, of the reference at a path below `spec`."""
        size = f"{self.size} bytes"
        if self.seconds is None:
            why = f"its log-probabilities were in the checkpoint: {size}"
        else:
            whom = f"all {self.rows} rows" if self.asked == self.rows else _some(self)
            why = f"asked once about {whom}, in {self.seconds:.1f} s; {size}, also in checkpoints"
        return Resolved(field=f"{field}.precompute", value="kept over epochs", why=why)


def _some(remembered: Remembered) -> str:
    return f"the {remembered.asked} of {remembered.rows} rows that training comes to"


class RemembersReference:
    """Mixin; stands before `Resumable` and a trainer of transformers among the bases.

    Attributes:
        reference_columns: Names of what the reference says of a row.
        reference: Asked in each step; None once everything is remembered.
        against_one_pass: Why it is asked in passes of its own; None if with the policy.
    """

    reference_columns: tuple[str, ...]
    train_dataset: Foreign
    reference: Reference | None = None
    against_one_pass: str | None = None
    _settings: Settings
    _precompute = False
    _kept: Columns | None = None

    def ask(self, reference: Reference, rows: list[dict[str, Any]]) -> Columns:
        """What the reference says of rows, by column, while the policy is untrained."""
        raise NotImplementedError

    def told_in_steps(self) -> list[Resolved]:
        """How the reference is asked in each step; nothing if it is asked once."""
        return [] if self._precompute else [told.reference(self.against_one_pass)]

    def remember(self, checkpoint: str | Path | None) -> Remembered | None:
        """Ask about the rows of training, unless that is done or not wanted; all processes must call this.

        Args:
            checkpoint: A folder that `capture` wrote, if training goes on from it.
        """
        if not self._precompute or self._kept is not None or self.reference is None:
            return None
        began, rows = monotonic(), self.train_dataset
        wanted = self._wanted()
        stored = Path(checkpoint) if checkpoint else None
        known = stored is not None and (stored / f"{_FILE}.json").exists()
        kept = tree.read(stored, _FILE) if stored and known else self._asked(rows, wanted)
        self._kept, self.train_dataset = kept, _with(rows, kept)
        self.reference = None
        size = sum(8 * len(each) for each in kept.values())
        return Remembered(len(wanted), len(rows), size, None if known else monotonic() - began)

    def train(self, resume_from_checkpoint: str | None = None, **named: Foreign) -> Foreign:
        """All steps, or those after a checkpoint."""
        self.remember(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, **named)  # type: ignore[misc]

    def capture(self, folder: Path) -> None:
        """Write what training has changed, and what the reference said."""
        super().capture(folder)  # type: ignore[misc]
        if self._kept is not None and processes.is_main():
            tree.write(folder, _FILE, self._kept)

    def with_reference(self, rows: Dataset, reference: Reference) -> Dataset:
        """Rows with what the reference says of each; all processes must call this."""
        return _with(rows, self._asked(rows, range(len(rows)), reference))

    def _wanted(self) -> Sequence[int]:
        """The rows that training comes to, in their own order."""
        rows, settings = len(self.train_dataset), self._settings
        coming = settings.total_steps * settings.batch_size
        if coming >= rows:
            return range(rows)
        return sorted(islice(self._get_train_sampler(), coming))  # type: ignore[attr-defined]

    def _asked(
        self, rows: Dataset, wanted: Sequence[int], reference: Reference | None = None
    ) -> Columns:
        size, asked = self._settings.micro_batch_size, reference or self.reference
        if asked is None:
            raise RuntimeError("the reference was let go of already")
        parts = [list(wanted[first : first + size]) for first in range(0, len(wanted), size)]
        # What other processes ask about stays 0, so that the sum over all is exact.
        found = {
            name: torch.zeros(len(rows), dtype=torch.float64) for name in self.reference_columns
        }
        for part in parts[processes.rank() :: processes.world_size()]:
            for name, values in self.ask(asked, rows.select(part).to_list()).items():
                found[name][part] = values.double().cpu()
        return {name: _complete(column, wanted) for name, column in found.items()}


def _complete(column: torch.Tensor, wanted: Sequence[int]) -> torch.Tensor:
    """The values of all processes; what is not wanted is no number, lest anybody take it for one."""
    every = torch.tensor(processes.total(*column.tolist()), dtype=torch.float64)
    values = torch.full_like(every, float("nan"))
    values[list(wanted)] = every[list(wanted)]
    return values.float()


def _with(rows: Dataset, columns: Columns) -> Dataset:
    for name, values in columns.items():
        rows = rows.add_column(name, values.tolist())
    return rows
