"""What makes a trainer of transformers or TRL resumable to the bit: a mixin for our subclasses of them.

A trainer with it has `capture`, and `train(resume_from_checkpoint=FOLDER)` goes on from what `capture`
wrote. transformers does most of a resume rightly and asks for each part at the right moment; the parts
themselves are replaced here: its files are pickled, its samplers draw from the global generator, and
counters of TRL's and of ours are not in them.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from finetune_trainer import processes, zero
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.resume import randomness, tree, weights, zero_state
from finetune_trainer.resume.sampling import EpochSeeded
from finetune_trainer.resume.sharding import spread_state

# transformers looks for this name.
_STATE = "trainer_state.json"
_WEIGHTS, _OPTIMIZER, _COUNTERS, _RANDOM = "weights", "optimizer", "counters", "random"
# Counters of TRL's trainers and of ours that outlast a step, for those that have them.
KEPT = ("_total_train_tokens", "_tokens", "_step", "equal_steps", "_warned", "_passes_done")


class Resumable:
    """Mixin; stands first among the bases."""

    _epoch = 0
    _passes_done = 0

    def capture(self, folder: Path) -> None:
        """Write all that training has changed. Every process must call this after the same step.

        Args:
            folder: Where to; only rank 0 writes.
        """
        every = processes.gather_objects(randomness.state())
        trainer: Foreign = self
        place = folder if processes.is_main() else None
        tree.write(place, _WEIGHTS, weights.of(trainer.model))
        tree.write(place, _OPTIMIZER, _state_of(trainer))
        if place is None:
            return
        counters = {name: getattr(self, name) for name in KEPT if hasattr(self, name)}
        tree.write(folder, _COUNTERS, [trainer.lr_scheduler.state_dict(), counters])
        tree.write(folder, _RANDOM, every)
        # The history grows with every step, and nobody reads it.
        state = replace(trainer.state, log_history=[], stateful_callbacks={})
        (folder / _STATE).write_text(json.dumps(asdict(state)), "utf-8")

    def create_optimizer(self, *arguments: Foreign, **named: Foreign) -> Foreign:
        """The optimiser, without groups that hold nothing: DeepSpeed leaves them out as well."""
        optimizer = super().create_optimizer(*arguments, **named)  # type: ignore[misc]
        optimizer.param_groups[:] = [each for each in optimizer.param_groups if each["params"]]
        return optimizer

    def training_step(self, *arguments: Foreign, **named: Foreign) -> Foreign:
        """One forward and backward pass."""
        result = super().training_step(*arguments, **named)  # type: ignore[misc]
        self._passes_done += 1
        return result

    def _get_train_sampler(self, *arguments: Foreign, **named: Foreign) -> Foreign:
        sampler = super()._get_train_sampler(*arguments, **named)  # type: ignore[misc]
        if sampler is None:
            return None
        if hasattr(sampler, "lengths"):
            # Groups are of a step's rows, however these are split among processes.
            sampler.batch_size *= processes.world_size()
        seed: int = self.args.seed  # type: ignore[attr-defined]
        return EpochSeeded(sampler, seed, lambda: self._epoch)

    def _run_epoch(self, *, epoch: int, **named: Foreign) -> None:
        self._epoch = epoch
        super()._run_epoch(epoch=epoch, **named)  # type: ignore[misc]

    # ---- What transformers asks for when it resumes, in this order ----

    def _prepare_for_training(self, steps: int, loader: Foreign, checkpoint: str | None) -> Foreign:
        if checkpoint is None or not self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            return super()._prepare_for_training(steps, loader, checkpoint)  # type: ignore[misc]
        # It would look for a checkpoint in DeepSpeed's own form, which is pickled.
        prepared = super()._prepare_for_training(steps, loader, None)  # type: ignore[misc]
        self._load_from_checkpoint(checkpoint)
        self._load_optimizer_and_scheduler(checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Model = None) -> None:
        weights.restore(model or self.model, tree.read(Path(resume_from_checkpoint), _WEIGHTS))  # type: ignore[attr-defined]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        trainer: Foreign = self
        folder = Path(checkpoint)
        _restore(trainer, tree.read(folder, _OPTIMIZER))
        scheduler, counters = tree.read(folder, _COUNTERS)
        trainer.lr_scheduler.load_state_dict(scheduler)
        for name, value in counters.items():
            setattr(self, name, value)
        if hasattr(trainer.data_collator, "go_on_from"):
            trainer.data_collator.go_on_from(self._passes_done)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        saved: list[dict[str, Any]] = tree.read(Path(checkpoint), _RANDOM)
        # With more processes than before, some have never drawn: they keep what their seed gives.
        if processes.rank() < len(saved):
            randomness.restore(saved[processes.rank()])


def _state_of(trainer: Foreign) -> dict[str, Any]:
    if zero.is_engine(trainer.model_wrapped):
        return zero_state.of(trainer.model_wrapped.optimizer, keep=processes.is_main())
    state: dict[str, Any] = trainer.optimizer.state_dict()
    return state


def _restore(trainer: Foreign, state: dict[str, Any]) -> None:
    if zero.is_engine(trainer.model_wrapped):
        zero_state.restore(trainer.model_wrapped.optimizer, state)
    else:
        trainer.optimizer.load_state_dict(spread_state(state, trainer.optimizer))
