"""One model in training: loaded, measured, trained, measured again, saved.

Called by `recipes.course` for a run, and by the command `evaluate` for the measurements alone. What
differs between methods is asked of the recipe.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import set_seed

from finetune_api.v1alpha1.status import Evaluation, Metric, Plan, Resolved
from finetune_trainer import (
    distributed,
    heads,
    model,
    processes,
    samples,
    save,
    straggling,
    verify,
    zero,
)
from finetune_trainer.checkpoints import Fence
from finetune_trainer.fast import kernels
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.model_card import Facts
from finetune_trainer.recipes import sparing
from finetune_trainer.recipes.recipe import Ready, Recipe
from finetune_trainer.resume import identity
from finetune_trainer.resume.checkpointing import Checkpointing
from finetune_trainer.resume.start import Seen, Start
from finetune_trainer.sanity import KnownAnswer, fingerprints, require_movement
from finetune_trainer.standstill import Standstill
from finetune_trainer.training_log import TrainingLog
from finetune_trainer.tuning import companion as companions
from finetune_trainer.tuning import optimizer
from finetune_trainer.tuning.companion import Companion
from finetune_trainer.tuning.targets import count_parameters
from finetune_trainer.watch import Measures, Watch, Watched


@dataclass(frozen=True)
class Trained:
    """What is left of training once the model is freed; its files lie in the output folder.

    Attributes:
        plan: Counts.
        resolved: What was chosen.
        evaluation: Figures before and after.
        reference: What the published model must say.
        labels: Names of the classes, if the model has any.
        fence: The right to write to the output, if this run took it.
    """

    plan: Plan
    resolved: list[Resolved]
    evaluation: Evaluation | None
    reference: verify.Reference
    labels: list[str] | None
    fence: Fence | None = None


class Session:
    """A loaded model, its trainer, and the watch over both.

    Args:
        recipe: Of the method.
        ready: The run.
        net: The model with its trainable parameters, or a trained one that is only measured.

    Attributes:
        trainer: What trains.
    """

    def __init__(self, recipe: Recipe, ready: Ready, net: Model) -> None:
        self._recipe, self._ready, self._net = recipe, ready, net
        self._log = _log(ready)
        self._companion: Companion | None = None
        self._saving: Checkpointing | None = None
        self._start: Start | None = None
        context = ready.context
        self._standstill = Standstill(context.run, context.output, context.scratch)
        if ready.before is None:
            self._companion = companions.of(net, ready.spec.tuning, recipe.updates(ready))
        self._watch = self._watch_over()
        self.trainer: Foreign = recipe.make_trainer(ready, net, self._watch)
        self._tell(recipe.fast_paths(ready, self.trainer))
        self._attested = distributed.install(self.trainer, ready.settings)
        straggling.install(self.trainer, ready.settings.device, context.reporter.straggler)
        self._questions = _questions(recipe, ready)

    @classmethod
    def begin(cls, recipe: Recipe, ready: Ready) -> "Session":
        """Load the model that is trained, and tell what only it could decide."""
        ready.context.reporter.phase("LoadingModel")
        net = load(recipe, ready)
        ready = recipe.settle(kernels.install(ready, net), net)
        ready = sparing.proved(ready, net)
        sparing.install(ready, net)
        ready.context.reporter.resolved(ready.resolved, _plan(ready, net))
        session = cls(recipe, ready, net)
        optimizer.install(session.trainer, net, ready.spec.tuning)
        return session

    def _tell(self, more: list[Resolved]) -> None:
        self._ready = replace(self._ready, resolved=[*self._ready.resolved, *more])
        self._ready.context.reporter.also_resolved(more)

    def look(self) -> Seen:
        """Measure the model as it is now, and let it answer."""
        measures = self.measure() if self._ready.data.evaluation else None
        return Seen(measures, samples.ask(self._net, self._ready.tokenizer, self._questions))

    def measure(self) -> Measures:
        """The held-out figures, reported."""
        reporter = self._ready.context.reporter
        reporter.phase("Evaluating")
        measures = self._recipe.measure(self._ready, self.trainer)
        if "loss" in measures:
            reporter.evaluated(f"{measures['loss']:.4f}")
        return measures

    def _measure_between(self) -> Measures:
        with self._standstill.unhurried():
            return self.measure()

    def train(self) -> Start:
        """Train, from the newest checkpoint if there is one; returns what it was like before.

        Raises:
            TrainerError: SanityCheckFailed if a trainable tensor did not move; ResumeIncompatible.
            StopRequestedError: A signal came; the run is saved if there was time.
        """
        context = self._ready.context
        saving = Checkpointing(context, identity.of_run(self._ready), self._capture)
        self._saving, folder = saving, saving.open()
        if folder:
            self._start = Start.of(folder)
            self._watch.go_on_from(folder)
        else:
            # What will be divided is not yet.
            with zero.undivided():
                self._start = Start(self.look(), fingerprints(self._net))
        self._tell(self._recipe.before_training(self.trainer, folder))
        with saving.training(), self._standstill.watching():
            self.trainer.train(resume_from_checkpoint=str(folder) if folder else None)
        steps = self._watch.steps_learnt(self.trainer.state.global_step)
        require_movement(self._net, self._start.fingerprints, steps)
        if self._full:
            # What is measured from here on is what will be published.
            save.round_weights(self._net, self._stored)
        return self._start

    def _capture(self, folder: Path) -> None:
        self.trainer.capture(folder)
        if processes.is_main() and self._start:
            self._watch.capture(folder)
            self._start.capture(folder)

    def save(self, before: Seen, after: Seen) -> Trained:
        """Put the output folder together."""
        ready, net, folder = self._ready, self._net, self._ready.context.output_folder
        self._log.close()
        plan, evaluation = _plan(ready, net), compared(before.measures, after.measures)
        resolved = [*ready.resolved, *self._attested, *self._stopped()]
        resolved += self._saving.resolved() if self._saving else []
        resolved += self._companion.end() if self._companion else []
        ready.context.reporter.phase("Saving")
        reference = verify.reference(net, self._recipe.probe(ready), ready.settings)
        base, tokenizer = ready.context.base, ready.tokenizer
        save.save_model(net, tokenizer, base, folder, full=self._full, dtype=self._stored)
        labels = self._recipe.head(ready.spec).labels(net.config)
        facts = Facts(ready.context.run, base, resolved, plan, evaluation, labels)
        save.save_records(folder, facts)
        samples.write(folder, tokenizer, self._questions, before.answers, after.answers)
        fence = self._saving.fence if self._saving else None
        distributed.end(self.trainer, ready.settings)
        return Trained(plan, resolved, evaluation, reference, labels, fence)

    def close(self) -> None:
        """End without an output."""
        self._log.close()

    @property
    def _full(self) -> bool:
        return self._ready.spec.tuning.type == "Full"

    @property
    def _stored(self) -> Foreign:
        return model.stored_dtype(self._ready.context.base.folder)

    def _watch_over(self) -> Watch:
        recipe, ready = self._recipe, self._ready
        watched = Watched(
            settings=ready.settings,
            reporter=ready.context.reporter,
            log=self._log,
            scratch=ready.context.scratch / "trainer",
            evaluate=self._measure_between if ready.data.evaluation else None,
            early_stopping=ready.spec.training.early_stopping,
            criterion=recipe.criterion,
            known_answer=self._known_answer,
            figures=recipe.figures,
            companion=self._companion,
            saved=self._after_step,
        )
        return Watch(watched)

    def _after_step(self, step: int) -> None:
        self._standstill.step_done()
        if self._saving:
            self._saving.after_step(step)

    def _known_answer(self) -> KnownAnswer | None:
        return self._recipe.known_answer(self._ready, self.trainer)

    def _stopped(self) -> list[Resolved]:
        if not self._watch.stopped_early:
            return []
        why = "the held-out figure got no better; the best evaluation's weights are published"
        value = f"stopped at step {self.trainer.state.global_step}"
        return [Resolved(field="training.earlyStopping", value=value, why=why)]


def load(recipe: Recipe, ready: Ready) -> Model:
    """The model before training; a head that the base does not have starts the same each time."""
    set_seed(ready.settings.seed)
    return recipe.load(ready)


def compared(before: Measures | None, after: Measures | None) -> Evaluation | None:
    """Both evaluations for the report."""
    if before is None or after is None:
        return None
    metrics = [
        Metric(name=name, before=f"{before[name]:.4f}", after=f"{after[name]:.4f}")
        for name in before
        if name != "loss"
    ]
    has_loss = "loss" in before
    return Evaluation(
        loss_before=f"{before['loss']:.4f}" if has_loss else None,
        loss_after=f"{after['loss']:.4f}" if has_loss else None,
        metrics=metrics or None,
    )


def _log(ready: Ready) -> TrainingLog:
    tracking = ready.spec.tracking
    tensorboard = ready.before is None and (tracking is None or tracking.tensorboard)
    return TrainingLog(ready.context.output_folder, tensorboard=tensorboard)


def _plan(ready: Ready, net: Model) -> Plan:
    trainable, total = count_parameters(net)
    counts = {"trainable_parameters": trainable, "total_parameters": total}
    return ready.data.plan.model_copy(update=counts)


def _questions(recipe: Recipe, ready: Ready) -> list[samples.Question]:
    """Held-out prompts that are answered before and after; none if the model writes no texts."""
    writes = recipe.head(ready.spec) in (heads.CAUSAL, heads.SEQUENCE_TO_SEQUENCE)
    return samples.choose(ready.data.evaluation) if writes else []
