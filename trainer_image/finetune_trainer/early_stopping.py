"""When to stop because held-out figures no longer get better, and which weights to keep.

Used by `watch`; pure but for `Best`, which stores the trainable tensors of the best evaluation. All
processes go through the same evaluations and call the same methods; rank 0 stores.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetune_api.v1alpha1.training import EarlyStopping
from finetune_trainer import processes, zero
from finetune_trainer.foreign import Model
from finetune_trainer.resume.sharding import spread_as
from finetune_trainer.sharded import from_main, whole


@dataclass(frozen=True)
class Criterion:
    """The figure that tells which of two evaluations is the better one.

    Attributes:
        name: Its name among the measures.
        higher_is_better: As of a reward; a loss is the other way round.
    """

    name: str = "loss"
    higher_is_better: bool = False


class Patience:
    """Counts evaluations without improvement.

    Attributes:
        improved: Whether the last evaluation was the best so far.
        over: Whether the patience is at its end.
    """

    def __init__(self, spec: EarlyStopping, criterion: Criterion) -> None:
        self._spec = spec
        self._sign = 1.0 if criterion.higher_is_better else -1.0
        self._best: float | None = None
        self._without = 0
        self.improved = False

    @property
    def over(self) -> bool:
        """Whether it is time to stop."""
        return self._without >= self._spec.patience

    def add(self, value: float) -> None:
        """Take one evaluation into account."""
        score = self._sign * value
        self.improved = self._best is None or score > self._best + self._spec.threshold
        self._without = 0 if self.improved else self._without + 1
        if self.improved:
            self._best = score

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self._best, "without": self._without}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._best, self._without = state["best"], state["without"]


class Best:
    """The trainable tensors of the best evaluation, whole, on the disk of rank 0.

    Args:
        folder: Where they are stored.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "best.safetensors"

    def keep(self, model: Model) -> None:
        """Store the tensors as they are now."""
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in _trainable(model):
            # Of a spread tensor, every process hands over its part.
            found = whole(tensor)
            if processes.is_main():
                tensors[name] = found.cpu().contiguous()
        if processes.is_main():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, self._path)

    def capture(self, folder: Path) -> None:
        """Add what is stored to a checkpoint."""
        if self._path.exists():
            shutil.copyfile(self._path, folder / self._path.name)

    def go_on_from(self, folder: Path) -> None:
        """Store again what `capture` added to a checkpoint."""
        if not processes.is_main():
            return
        self._path.unlink(missing_ok=True)
        if (folder / self._path.name).exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / self._path.name, self._path)

    def restore(self, model: Model) -> None:
        """Bring the stored tensors back, if any were stored."""
        if not processes.gather_objects(self._path.exists())[0]:
            return
        stored = load_file(self._path) if processes.is_main() else {}
        for name, tensor in _trainable(model):
            best = from_main(stored.get(name), tensor)
            with torch.no_grad(), zero.changing(tensor):
                tensor.copy_(spread_as(best, tensor))
        self._path.unlink(missing_ok=True)


def _trainable(model: Model) -> list[tuple[str, torch.Tensor]]:
    return [(name, each) for name, each in model.named_parameters() if each.requires_grad]
