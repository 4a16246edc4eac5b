"""What a kind of adapter does while it is trained; for most there is nothing to do.

Made by `recipes.course`; called by `watch` at each step, whatever trains.
"""

from typing import Any, Protocol

from finetune_api.v1alpha1.status import Resolved
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer.foreign import Model
from finetune_trainer.tuning import adalora


class Companion(Protocol):
    """Accompanies the training of one model."""

    def add_gradients(self) -> None:
        """Add its own gradients, once for each update and before gradients are clipped."""
        ...

    def updated(self) -> None:
        """After an update, with its gradients still there."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the next update takes from those before it, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...

    def end(self) -> list[Resolved]:
        """What came of it, after the last update; raises TrainerError if it is not what was asked."""
        ...


def of(model: Model, tuning: Tuning, updates: int) -> Companion | None:
    """What accompanies the training of a model, if anything.

    Args:
        model: With its adapter.
        tuning: The block of the spec.
        updates: How many updates of the weights there will be.
    """
    return adalora.Pruning(model, updates) if tuning.type == "AdaLoRA" else None


def foretold(tuning: Tuning, updates: int) -> list[Resolved]:
    """The same for the status, before there is a model."""
    return adalora.told(tuning, updates) if tuning.type == "AdaLoRA" else []
