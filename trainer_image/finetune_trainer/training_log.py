"""The log of a run: one JSON line an entry, and TensorBoard files.

Written by the recipe's callback into the output folder, and published with it.
"""

import json
from pathlib import Path
from typing import TextIO

FILE = "training_log.jsonl"
TENSORBOARD = "tensorboard"


class TrainingLog:
    """Both logs of one run; `close` flushes them."""

    def __init__(self, folder: Path, *, tensorboard: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._file: TextIO = self._path.open("w", encoding="utf-8")
        self._board = None
        if tensorboard:
            # Half a second of import, for those who want it only.
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(log_dir=str(folder / TENSORBOARD))

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Log figures of a step, by camelCase names."""
        print(json.dumps({"step": step, **figures}), file=self._file, flush=True)
        if self._board:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def entries(self) -> list[dict[str, float]]:
        """All so far, for a checkpoint."""
        return [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]

    def go_on_from(self, entries: list[dict[str, float]]) -> None:
        """Log again what `entries` gave."""
        for entry in entries:
            figures = {name: value for name, value in entry.items() if name != "step"}
            self.add(int(entry["step"]), figures)

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        if self._board:
            self._board.close()
