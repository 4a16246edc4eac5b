"""Watches training at work: progress, logs, divergence, sanity, evaluations in between.

A recipe's trainer tells it what happens; `callback` does so for transformers' trainers. It raises
`TrainerError` out of the training loop when figures stop being numbers or the first step is not what
it must be. It trains nothing itself.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.training import EarlyStopping
from finetune_trainer import processes, termination
from finetune_trainer.early_stopping import Best, Criterion, Patience
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.progress import Reporter, duration
from finetune_trainer.resolve import Settings
from finetune_trainer.resume import tree
from finetune_trainer.sanity import KnownAnswer, require_gradients, require_reload
from finetune_trainer.training_log import TrainingLog
from finetune_trainer.tuning.companion import Companion

Measures = Mapping[str, float]
# Figures of trainers' logs that the watch knows by itself; the others come from the recipe.
_TOKENS = ("num_tokens", "num_input_tokens_seen")
_STATE = "watch"


@dataclass(frozen=True)
class Watched:
    """What a watch is given.

    Attributes:
        settings: Of the run.
        reporter: Told of each step.
        log: Gets every entry.
        scratch: Folder for what is stored in between.
        evaluate: Measures on the held-out rows; None without such rows.
        early_stopping: The block of the spec.
        criterion: What early stopping looks at.
        known_answer: What the loss of the first step must be, asked for after that step.
        figures: Takes a method's own figures out of a trainer's log entry.
        companion: What the kind of adapter does at each update.
        saved: Told after each step but the last, when all about it is known; it may save the run, and
            may end it.
    """

    settings: Settings
    reporter: Reporter
    log: TrainingLog
    scratch: Path
    evaluate: Callable[[], Measures] | None
    early_stopping: EarlyStopping | None
    criterion: Criterion
    known_answer: Callable[[], KnownAnswer | None]
    figures: Callable[[Mapping[str, Any]], dict[str, float]]
    companion: Companion | None = None
    saved: Callable[[int], None] | None = None


class Watch:
    """The watch over one training run.

    Attributes:
        stopped_early: Whether the patience of `training.earlyStopping` came to its end.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._losses: deque[float] = deque(maxlen=watched.settings.log_every)
        self._started = 0.0
        self._elapsed = 0.0
        stopping = watched.early_stopping
        self._patience = Patience(stopping, watched.criterion) if stopping else None
        self._best = Best(watched.scratch)
        self.stopped_early = False
        self._best_step = 0

    def begin(self) -> None:
        """Start the clock."""
        self._started = time.monotonic() - self._elapsed
        self._watched.reporter.phase("Training")

    def capture(self, folder: Path) -> None:
        """Add what the watch remembers to a checkpoint."""
        watched = self._watched
        state = {
            "losses": list(self._losses),
            "elapsed": self._elapsed,
            "entries": watched.log.entries(),
            "patience": self._patience.state_dict() if self._patience else None,
            "best_step": self._best_step,
            "companion": watched.companion.state_dict() if watched.companion else None,
        }
        tree.write(folder, _STATE, state)
        self._best.capture(folder)

    def go_on_from(self, folder: Path) -> None:
        """Remember what `capture` added to a checkpoint; before `begin`."""
        state = tree.read(folder, _STATE)
        self._losses.extend(state["losses"])
        self._elapsed = state["elapsed"]
        self._watched.log.go_on_from(state["entries"])
        if self._patience:
            self._patience.load_state_dict(state["patience"])
        self._best_step = state["best_step"]
        if self._watched.companion:
            self._watched.companion.load_state_dict(state["companion"])
        self._best.go_on_from(folder)

    def add_gradients(self) -> None:
        """Once for each update, after gradients are cleared and before they are clipped."""
        if self._watched.companion:
            self._watched.companion.add_gradients()

    def updated(self) -> None:
        """After each update of the weights, before its gradients are cleared."""
        if self._watched.companion:
            self._watched.companion.updated()

    def before_step(self, step: int, model: Model) -> None:
        """After a backward pass, before the optimiser's step number `step` (from 1)."""
        if step == 1:
            require_gradients(model)

    def after_step(self, step: int, model: Model) -> None:
        """After the optimiser's step number `step`."""
        if step == 1:
            require_reload(model, self._watched.scratch / "first-step")

    def logged(self, step: int, epoch: float, logs: Mapping[str, Any], model: Model) -> bool:
        """Take the figures of a step; True if training shall stop.

        Args:
            step: Steps done.
            epoch: Passes over the data.
            logs: `loss`, `learning_rate`, `grad_norm`, tokens so far, and the method's own.
            model: The model in training.

        Raises:
            TrainerError: Diverged, or SanityCheckFailed at the first step.
        """
        watched = self._watched
        _require_numbers(step, logs)
        if step == 1 and (known := watched.known_answer()):
            known.check(float(logs["loss"]))
        self._losses.append(float(logs["loss"]))
        final = step >= watched.settings.total_steps
        figures, own = self._figures(logs), watched.figures(logs)
        if step % watched.settings.log_every == 0 or final:
            watched.log.add(step, figures | own)
        self._report(step, epoch, figures, own, final=final)
        # The last step is evaluated after training, on what will be published.
        every = watched.settings.evaluate_every
        if watched.evaluate and every and step % every == 0 and not final:
            self._evaluation(step, watched.evaluate, model)
        if watched.saved and not final and not self.stopped_early:
            watched.saved(step)
        return self.stopped_early

    def end(self, model: Model) -> None:
        """After the last step: with early stopping, the best weights come back."""
        if self._patience:
            self._best.restore(model)

    def steps_learnt(self, done: int) -> int:
        """How many of the `done` steps are in the weights that `end` left."""
        return self._best_step or done

    def _evaluation(self, step: int, evaluate: Callable[[], Measures], model: Model) -> None:
        paused = time.monotonic()
        with termination.at_once():
            measures = evaluate()
        self._watched.log.add(step, {_logged_name(name): value for name, value in measures.items()})
        self._watched.reporter.phase("Training")
        if self._patience:
            # By the figures of rank 0: all must stop after the same step.
            self._patience.add(processes.gather_objects(measures[self._watched.criterion.name])[0])
            self.stopped_early = self._patience.over
            if self._patience.improved:
                self._best.keep(model)
                self._best_step = step
        self._started += time.monotonic() - paused

    def _figures(self, logs: Mapping[str, Any]) -> dict[str, float]:
        self._elapsed = max(time.monotonic() - self._started, 1e-9)
        tokens = next((float(logs[name]) for name in _TOKENS if name in logs), 0.0)
        return {
            # Over the steps since about the last entry, so that the figure does not jump.
            "loss": sum(self._losses) / len(self._losses),
            "learningRate": float(logs["learning_rate"]),
            "gradientNorm": float(logs.get("grad_norm", 0)),
            "tokensPerSecond": tokens / self._elapsed,
        }

    def _report(
        self, step: int, epoch: float, figures: Measures, own: Measures, *, final: bool
    ) -> None:
        total = self._watched.settings.total_steps
        left = round(self._elapsed / step * (total - step))
        self._watched.reporter.step(
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
            metrics={name: f"{value:.4g}" for name, value in own.items()} or None,
        )


def _logged_name(measure: str) -> str:
    """`loss` of an evaluation is `evaluationLoss` in the log.

    >>> _logged_name("rewardMargin")
    'evaluationRewardMargin'
    """
    return f"evaluation{measure[0].upper()}{measure[1:]}"


def _require_numbers(step: int, logs: Mapping[str, Any]) -> None:
    for name, words in (("loss", "loss"), ("grad_norm", "gradient norm")):
        value = float(logs.get(name, 0))
        if not math.isfinite(value):
            raise TrainerError(Reason.DIVERGED, f"the {words} is {value} at step {step}")
