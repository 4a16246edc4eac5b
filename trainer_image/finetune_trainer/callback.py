"""Watches TRL's trainer at work: progress, logs, divergence, evaluations in between.

Handed to the trainer by the recipe. It raises `TrainerError` out of the training loop when the loss or
the gradients stop being numbers, or when a gradient is missing after the first backward pass.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import CausalLM
from finetune_trainer.progress import Reporter, duration
from finetune_trainer.resolve import Settings
from finetune_trainer.sanity import require_gradients
from finetune_trainer.training_log import TrainingLog


class TrainingWatch(TrainerCallback):
    """The callback of one training run."""

    def __init__(
        self,
        settings: Settings,
        reporter: Reporter,
        log: TrainingLog,
        evaluate: Callable[[], float] | None,
    ) -> None:
        self._settings = settings
        self._reporter = reporter
        self._log = log
        self._evaluate = evaluate
        self._losses: deque[float] = deque(maxlen=settings.log_every)
        self._started = 0.0
        self._elapsed = 0.0

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._reporter.phase("Training")

    def on_pre_optimizer_step(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        *_: object,
        model: CausalLM,
        **__: object,
    ) -> None:
        """After the first backward pass, gradients must be everywhere."""
        if state.global_step == 0:
            require_gradients(model)

    def on_log(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        """Take the figures of a step; the trainer logs every one."""
        if not logs or "loss" not in logs:
            return
        step = state.global_step
        _require_numbers(step, logs)
        self._losses.append(float(logs["loss"]))
        final = step >= self._settings.total_steps
        figures = self._figures(logs)
        if step % self._settings.log_every == 0 or final:
            self._log.add(step, figures)
        self._report(step, float(state.epoch or 0), figures, final=final)
        # The last step is evaluated after training, on what will be published.
        every = self._settings.evaluate_every
        if self._evaluate and every and step % every == 0 and not final:
            self._evaluation(step, self._evaluate)

    def _evaluation(self, step: int, evaluate: Callable[[], float]) -> None:
        paused = time.monotonic()
        self._reporter.phase("Evaluating")
        loss = evaluate()
        self._log.add(step, {"evaluationLoss": loss})
        self._reporter.evaluated(f"{loss:.4f}")
        self._reporter.phase("Training")
        self._started += time.monotonic() - paused

    def _figures(self, logs: dict[str, Any]) -> dict[str, float]:
        self._elapsed = max(time.monotonic() - self._started, 1e-9)
        return {
            # Over the steps since about the last entry, so that the figure does not jump.
            "loss": sum(self._losses) / len(self._losses),
            "learningRate": float(logs["learning_rate"]),
            "gradientNorm": float(logs.get("grad_norm", 0)),
            "tokensPerSecond": float(logs.get("num_tokens", 0)) / self._elapsed,
        }

    def _report(self, step: int, epoch: float, figures: dict[str, float], *, final: bool) -> None:
        total = self._settings.total_steps
        left = round(self._elapsed / step * (total - step))
        self._reporter.step(
            final=final,
            step=step,
            total_steps=total,
            percent=100 * step // total,
            epoch=f"{epoch:.2f}",
            loss=f"{figures['loss']:.4f}",
            learning_rate=f"{figures['learningRate']:.3g}",
            tokens_per_second=f"{figures['tokensPerSecond']:.0f}",
            eta_seconds=left,
            eta=duration(left),
        )


def _require_numbers(step: int, logs: dict[str, Any]) -> None:
    for name, words in (("loss", "loss"), ("grad_norm", "gradient norm")):
        value = float(logs.get(name, 0))
        if not math.isfinite(value):
            raise TrainerError(Reason.DIVERGED, f"the {words} is {value} at step {step}")
