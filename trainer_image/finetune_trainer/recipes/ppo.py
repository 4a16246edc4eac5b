"""Proximal policy optimisation against a reward model.

The method itself is in `ppo.algorithm`; this connects it to the course of a run.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import get_scheduler

from finetune_api.v1alpha1 import method
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.method import Generation
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import model, reference
from finetune_trainer.arguments import SCHEDULERS, scheduler_arguments
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.errors import TrainerError
from finetune_trainer.fast import told
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.ppo.experience import Hyperparameters
from finetune_trainer.ppo.policy import LanguagePolicy, Optimization, ValueHead
from finetune_trainer.ppo.training import Training
from finetune_trainer.recipes.online import Online, judge
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.reference import Reference
from finetune_trainer.resolve import Machine, Settings
from finetune_trainer.tuning.optimizer import make_optimizer
from finetune_trainer.watch import Measures, Watch

FIGURES = (
    "reward", "kl", "klCoefficient", "entropy", "clipFraction", "approximateKl", "policyLoss",
    "valueLoss", "explainedVariance", "responseLength", "eosShare",
)  # fmt: skip


class PPO(Online):
    """The method PPO."""

    def generation(self, spec: FineTuneJobSpec) -> Generation:
        """How answers are written."""
        return _block(spec).generation

    def resolve(
        self, spec: FineTuneJobSpec, machine: Machine, data: Prepared[Any]
    ) -> tuple[Settings, list[Resolved]]:
        """Every setting, and what the reference is."""
        settings, chosen = super().resolve(spec, machine, data)
        parts, count = _block(spec).minibatches, settings.processes
        if settings.batch_size % (parts * count):
            message = (
                f"`method.ppo.minibatches` {parts} does not divide the batch of "
                f"{settings.batch_size} prompts"
            )
            if count > 1:
                message += f" over {count} processes, which is {settings.batch_size // count} each"
            raise TrainerError(Reason.INVALID_SPEC, message)
        return settings, [*chosen, *_told(spec)]

    def updates(self, ready: Ready) -> int:
        """Several in each step."""
        block = _block(ready.spec)
        return super().updates(ready) * block.epochs * block.minibatches

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """Our own loop."""
        block, settings = _block(ready.spec), ready.settings
        tuning = ready.spec.tuning
        if settings.gradient_checkpointing:
            net.gradient_checkpointing_enable({"use_reentrant": False})
        # The copy comes first: whatever is hung on the policy must not be in it.
        kept = Reference.of(net, tuning, ready.before)
        head = ValueHead(net.get_output_embeddings().weight.shape[1]).to(net.device)
        optimization = _optimization(ready, net, head, watch)
        policy = LanguagePolicy(
            kept,
            head,
            optimization,
            temperature=block.generation.temperature,
            precision=model.DTYPES[settings.precision],
        )
        return Training(
            policy,
            judge(ready, "method.ppo.rewardModel"),
            ready.data.train,
            self.sampling(ready, net),
            settings=settings,
            hyperparameters=_hyperparameters(block),
            schedules=[
                _schedule(each, settings) for each in (optimization.policy, optimization.values)
            ],
            start_tolerance=reference.start_tolerance(tuning),
            watch=watch,
        )

    def fast_paths(self, ready: Ready, trainer: Foreign) -> list[Resolved]:
        """How policy and reference are read."""
        return told.answers(trainer.policy.fitted)

    def measure(self, ready: Ready, trainer: Foreign) -> Measures:
        """Mean score of greedy answers to the held-out prompts, and how far they are from the reference."""
        held_out = self.held_out(ready, trainer.model)
        answers = held_out.answers(trainer.model)
        scores = trainer.judge.totals(held_out.rows, answers)
        kl = held_out.divergence(trainer.model, answers, trainer.policy.reference.logits)
        return {"reward": sum(scores) / len(scores), "kl": kl, **held_out.lengths(answers)}

    def figures(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """The figures of a step."""
        return {name: float(logs[name]) for name in FIGURES}


def _block(spec: FineTuneJobSpec) -> method.PPO:
    if spec.method.ppo is None:
        raise TrainerError(Reason.INVALID_SPEC, "PPO needs `method.ppo.rewardModel`")
    return spec.method.ppo


def _hyperparameters(block: method.PPO) -> Hyperparameters:
    names = Hyperparameters.__dataclass_fields__
    return Hyperparameters(**{name: getattr(block, name) for name in names})


def _told(spec: FineTuneJobSpec) -> list[Resolved]:
    resolved = [reference.told(spec.tuning, "method.ppo.reference")]
    if spec.tuning.lora and spec.tuning.lora.dropout:
        why = "PPO compares the policy with itself, so it must be the same function twice"
        resolved.append(Resolved(field="tuning.lora.dropout", value="0", why=why))
    return resolved


def _optimization(ready: Ready, net: Model, head: ValueHead, watch: Watch) -> Optimization:
    settings = ready.settings
    folder = ready.context.scratch / "trainer"
    policy = make_optimizer(net, ready.spec.tuning, settings, folder)
    rate = _block(ready.spec).value_learning_rate
    values = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.0)
    updates = iter(range(1, 2**63))

    def before() -> None:
        watch.add_gradients()
        watch.before_step(next(updates), net)

    return Optimization(
        policy,
        values,
        settings.max_gradient_norm,
        before=before,
        after=watch.updated,
    )


def _schedule(optimizer: torch.optim.Optimizer, settings: Settings) -> Foreign:
    return get_scheduler(
        SCHEDULERS[settings.scheduler],
        optimizer,
        settings.warmup_steps,
        settings.total_steps,
        scheduler_arguments(settings),
    )
