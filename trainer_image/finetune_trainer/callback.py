"""Tells the watch what transformers' trainers do; a loop of our own tells it by itself.

Handed to the trainer by the recipes. It decides nothing.
"""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.foreign import Model
from finetune_trainer.watch import Watch


class WatchCallback(TrainerCallback):
    """The watch as a callback."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Training begins."""
        self._watch.begin()

    def on_step_begin(self, *_: object, **__: object) -> None:
        """No gradients are there."""
        self._watch.add_gradients()

    def on_pre_optimizer_step(
        self, _: TrainingArguments, state: TrainerState, *__: object, model: Model, **___: object
    ) -> None:
        """Gradients are there."""
        self._watch.before_step(state.global_step + 1, model)

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        """Weights are updated, their gradients still there."""
        self._watch.updated()

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, *__: object, model: Model, **___: object
    ) -> None:
        """A step is done."""
        self._watch.after_step(state.global_step, model)

    def on_log(
        self,
        _: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        model: Model = None,
        **__: object,
    ) -> None:
        """The figures of a step; the trainer logs every one."""
        if not logs or "loss" not in logs:
            return
        if self._watch.logged(state.global_step, float(state.epoch or 0), logs, model):
            control.should_training_stop = True

    def on_train_end(self, *_: object, model: Model, **__: object) -> None:
        """Training is over."""
        self._watch.end(model)
