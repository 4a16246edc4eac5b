"""The loop around the algorithm: prompts, answers, scores, steps, and what is told about them.

Made by `recipes.ppo`, driven by `recipes.course`. A step takes `training.batchSize` prompts, writes one
answer to each, scores them and makes `epochs` × `minibatches` updates; `training.maxSteps`, the schedule
of the learning rate and the log all count such steps. Everything that is drawn in a step follows from
the seed and the step's number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from finetune_trainer import processes
from finetune_trainer.answering import Sampling, write_answers
from finetune_trainer.data.rows import PromptRow
from finetune_trainer.foreign import Foreign
from finetune_trainer.ppo import known_answers, shares
from finetune_trainer.ppo.algorithm import Algorithm
from finetune_trainer.ppo.experience import Hyperparameters
from finetune_trainer.ppo.policy import LanguagePolicy
from finetune_trainer.resolve import Settings
from finetune_trainer.resume import randomness, tree, weights
from finetune_trainer.rewards.judge import Judge
from finetune_trainer.watch import Watch

# Between the seeds of two steps, so that neighbouring seeds of jobs do not share them.
_STRIDE = 1_000_003


@dataclass
class State:
    """How far training is."""

    global_step: int = 0


class Training:
    """One run of PPO.

    Attributes:
        state: How far it is.
        policy: What is trained.
        judge: Scores the answers.
        precision: Of the arithmetic, as the settings name it.
    """

    def __init__(
        self,
        policy: LanguagePolicy,
        judge: Judge,
        rows: Sequence[PromptRow],
        how: Sampling,
        *,
        settings: Settings,
        hyperparameters: Hyperparameters,
        schedules: Sequence[Foreign],
        start_tolerance: float,
        watch: Watch,
    ) -> None:
        self.state = State()
        self.policy = policy
        self.judge = judge
        self.model = policy.model
        self._rows = rows
        self._how = how
        self._settings = settings
        self._schedules = schedules
        self._watch = watch
        self.precision = settings.precision
        self._callbacks: list[TrainerCallback] = []
        self._tokens = 0
        self._algorithm = Algorithm(
            policy, hyperparameters, micro_batch=settings.micro_batch_size, seed=settings.seed
        )
        self._check = partial(
            known_answers.check,
            policy,
            micro_batch=settings.micro_batch_size,
            clip_range=hyperparameters.clip_range,
            start=start_tolerance,
        )

    @property
    def model_wrapped(self) -> Foreign:
        """What the policy computes its gradients in."""
        return self.policy.wrapped

    def add_callback(self, callback: TrainerCallback) -> None:
        """Have `on_train_begin` and `on_step_end` called, with arguments of transformers' or without."""
        self._callbacks.append(callback)

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """All steps, or those after a checkpoint.

        Args:
            resume_from_checkpoint: A folder that `capture` wrote.

        Raises:
            TrainerError: What the watch raises; SanityCheckFailed before the first update.
        """
        if resume_from_checkpoint:
            self._restore(Path(resume_from_checkpoint))
        self._watch.begin()
        self._tell("on_train_begin")
        self.model.train()
        # The prompts of steps that are done are drawn once more: that costs no more than numbers.
        done = self.state.global_step
        for rows in islice(batches(self._rows, self._settings), done, None):
            figures = self._step(rows)
            self._tell("on_step_end")
            if self._told(figures):
                break
        self._watch.end(self.model)

    def _tell(self, event: str) -> None:
        for callback in self._callbacks:
            getattr(callback, event)()

    def capture(self, folder: Path) -> None:
        """Write all that training has changed, for `train` to go on from; all processes must call this."""
        every = processes.gather_objects(randomness.state())
        if not processes.is_main():
            return
        tree.write(folder, "weights", weights.of(self.model))
        tree.write(folder, "values", self.policy.head.state_dict())
        tree.write(folder, "optimizers", [each.state_dict() for each in self.policy.optimizers])
        tree.write(folder, "schedules", [each.state_dict() for each in self._schedules])
        counters = {"step": self.state.global_step, "tokens": self._tokens}
        tree.write(folder, "counters", {**counters, "algorithm": self._algorithm.state_dict()})
        tree.write(folder, "random", every)

    def _restore(self, folder: Path) -> None:
        weights.restore(self.model, tree.read(folder, "weights"))
        self.policy.head.load_state_dict(tree.read(folder, "values"))
        for own, name in ((self.policy.optimizers, "optimizers"), (self._schedules, "schedules")):
            for each, state in zip(own, tree.read(folder, name), strict=True):
                each.load_state_dict(state)
        counters = tree.read(folder, "counters")
        self.state.global_step, self._tokens = counters["step"], counters["tokens"]
        self._algorithm.load_state_dict(counters["algorithm"])
        saved: list[dict[str, Any]] = tree.read(folder, "random")
        if processes.rank() < len(saved):
            randomness.restore(saved[processes.rank()])

    def _step(self, rows: Sequence[PromptRow]) -> dict[str, float]:
        step, own = self.state.global_step, shares.own(len(rows))
        prompts = [row.prompt_ids for row in rows[own]]
        seed = (self._settings.seed + _STRIDE * (step + 1)) % 2**63
        part = write_answers(self.model, prompts, self._how, seed=seed, first=own.start)
        totals = torch.tensor(self.judge.totals(rows[own], part), device=part.mask.device)
        rollout = shares.rollout_together(part, self._how.pad_id)
        scores = shares.together(totals)
        self._tokens += int(rollout.prompt_mask.sum() + rollout.mask.sum())
        return self._algorithm.step(rollout, scores, None if step else self._check)

    def _told(self, figures: dict[str, float]) -> bool:
        self.state.global_step += 1
        step = self.state.global_step
        rate = self._schedules[0].get_last_lr()[0]
        for schedule in self._schedules:
            schedule.step()
        self._watch.after_step(step, self.model)
        logs = {
            "loss": figures["policyLoss"] + figures["valueLoss"],
            "learning_rate": rate,
            "grad_norm": self.policy.gradient_norm,
            "num_tokens": self._tokens,
            **figures,
        }
        epoch = step * self._settings.batch_size / len(self._rows)
        return self._watch.logged(step, epoch, logs, self.model)


def batches(rows: Sequence[PromptRow], settings: Settings) -> Iterator[list[PromptRow]]:
    """The prompts of each step: pass after pass over all rows, each in another order."""
    order = torch.Generator().manual_seed(settings.seed)
    waiting: list[int] = []
    for _ in range(settings.total_steps):
        while len(waiting) < settings.batch_size:
            waiting += torch.randperm(len(rows), generator=order).tolist()
        now, waiting = waiting[: settings.batch_size], waiting[settings.batch_size :]
        yield [rows[index] for index in now]
