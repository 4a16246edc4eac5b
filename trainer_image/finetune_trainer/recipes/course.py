"""The course of a run that all methods share: prepare, load, measure, train, measure, publish, verify.

Called by `run` with the recipe of the method. What differs between methods is asked of the recipe.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import set_seed

from finetune_api.records import Report
from finetune_api.v1alpha1.status import Evaluation, Metric, Plan, Resolved
from finetune_trainer import compatible, heads, merged, model, publish, samples, save, verify
from finetune_trainer.context import Context
from finetune_trainer.data import contract as contracts
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.foreign import Foreign, Model, Tokenizer
from finetune_trainer.model_card import Facts
from finetune_trainer.recipes import foresight
from finetune_trainer.recipes.recipe import Ready, Recipe
from finetune_trainer.recipes.returned import Returned, verify_returned
from finetune_trainer.resolve import Machine
from finetune_trainer.sanity import KnownAnswer, fingerprints, require_movement
from finetune_trainer.training_log import TrainingLog
from finetune_trainer.tuning import companion as companions
from finetune_trainer.tuning import optimizer, virtual_tokens
from finetune_trainer.tuning.companion import Companion
from finetune_trainer.tuning.targets import count_parameters
from finetune_trainer.watch import Measures, Watch, Watched


@dataclass(frozen=True)
class Trained:
    """What is left of training once the model is freed; its files lie in the output folder."""

    plan: Plan
    resolved: list[Resolved]
    evaluation: Evaluation | None
    reference: verify.Reference
    labels: list[str] | None


def run(recipe: Recipe, context: Context) -> Report:
    """Train, publish and verify."""
    ready = prepare(recipe, context)
    trained = train(recipe, ready)
    # Only now is the trained model out of memory, and the published one can be loaded beside nothing.
    gc.collect()
    torch.cuda.empty_cache()
    if ready.spec.output.merged:
        context.reporter.phase("Saving")
        places = (context.output_folder, context.base)
        merged.write(*places, ready.config, recipe.head(ready.spec), ready.tokenizer)
    place = publish.attempt_place(context.output, context.run)
    context.reporter.phase("Publishing")
    files = publish.upload(context.output_folder, place)
    context.reporter.phase("Verifying")
    folder = publish.fetch_back(place, context.scratch / "verify")
    verify.check_digests(folder, files)
    returned = Returned(recipe, ready, folder, trained.labels)
    verification = verify_returned(returned, trained.reference)
    facts = (trained.resolved, trained.plan, trained.evaluation)
    manifest = publish.make_manifest(
        context.run, context.base, place, files, facts, verification, trained.labels
    )
    return publish.write_manifest(context.output, context.run, manifest)


def preflight(recipe: Recipe, context: Context) -> Report:
    """The same up to the point where a GPU or weights are needed."""
    machine = foresight.machine(context.run.spec, laptop=context.laptop)
    return foresight.report(prepare(recipe, context, machine))


def prepare(recipe: Recipe, context: Context, machine: Machine | None = None) -> Ready:
    """Tokenizer, token rows, every setting, and what the model's outline tells.

    Args:
        recipe: Of the method.
        context: The run.
        machine: What it will run on; what is here, if nothing is said.
    """
    context.reporter.phase("PreparingData")
    machine = machine or model.machine(laptop=context.laptop)
    spec, base = context.run.spec, context.base
    compatible.refuse(spec, model.family(base.folder, base.uri))
    config = model.load_config(base.folder, base.uri, recipe.head(spec))
    tokenizer = model.load_tokenizer(base.tokenizer, base.uri, spec.data.chat_template)
    padding = recipe.pad(tokenizer)
    data = keep_contract(recipe.prepare(context, tokenizer, config), context, tokenizer)
    settings, chosen = recipe.resolve(spec, machine, data)
    resolved = [*context.resolved, *context.examples.resolved, *data.resolved, *padding, *chosen]
    resolved = foresight.hedged(resolved, machine)
    ready = Ready(context, tokenizer, config, data, settings, resolved)
    told = companions.foretold(spec.tuning, recipe.updates(ready))
    told += virtual_tokens.told(spec.tuning, tokenizer)
    ready = foresight.complete(recipe, replace(ready, resolved=[*resolved, *told]))
    context.reporter.resolved(ready.resolved, ready.data.plan)
    return ready


def keep_contract(data: Prepared[Any], context: Context, tokenizer: Tokenizer) -> Prepared[Any]:
    """The rows with their counts, once the data contract is written and found good."""
    spec = context.run.spec
    contract = contracts.draw_up(data, contracts.Subject(spec.data, spec.model.task, tokenizer))
    contract.publish(context.output_folder)
    # Told before it is judged: the counts explain a refusal.
    context.reporter.resolved([*context.resolved, *context.examples.resolved], contract.plan)
    contract.refuse_breaches()
    return replace(data, plan=contract.plan)


def train(recipe: Recipe, ready: Ready) -> Trained:
    """Everything between loading the weights and having the output folder."""
    context, spec = ready.context, ready.spec
    context.reporter.phase("LoadingModel")
    set_seed(ready.settings.seed)
    net = recipe.load(ready)
    ready = recipe.settle(ready, net)
    plan = _with_parameters(ready, net)
    context.reporter.resolved(ready.resolved, plan)
    tensorboard = spec.tracking is None or spec.tracking.tensorboard
    log = TrainingLog(context.output_folder, tensorboard=tensorboard)

    def measure() -> Measures:
        return measured(recipe, ready, trainer)

    def known_answer() -> KnownAnswer | None:
        return recipe.known_answer(ready, trainer)

    companion = companions.of(net, spec.tuning, recipe.updates(ready))
    watch = watch_over(recipe, ready, log, measure, known_answer, companion)
    trainer = recipe.make_trainer(ready, net, watch)
    optimizer.install(trainer, net, spec.tuning)
    before = measure() if ready.data.evaluation else None
    questions = questions_of(recipe, ready)
    said_before = samples.ask(net, ready.tokenizer, questions)
    start = fingerprints(net)
    trainer.train()
    require_movement(net, start, trainer.state.global_step)
    stored = model.stored_dtype(context.base.folder)
    if spec.tuning.type == "Full":
        save.round_weights(net, stored)
    after = measure() if ready.data.evaluation else None
    said_after = samples.ask(net, ready.tokenizer, questions)
    log.close()
    evaluation = compared(before, after)
    resolved = [*ready.resolved, *_stopped(watch, trainer.state.global_step)]
    resolved += companion.end() if companion else []
    context.reporter.phase("Saving")
    reference = verify.reference(net, recipe.probe(ready), ready.settings)
    full = spec.tuning.type == "Full"
    folder = context.output_folder
    save.save_model(net, ready.tokenizer, context.base, folder, full=full, dtype=stored)
    labels = recipe.head(spec).labels(net.config)
    facts = Facts(context.run, context.base, resolved, plan, evaluation, labels)
    save.save_records(folder, facts)
    samples.write(folder, ready.tokenizer, questions, said_before, said_after)
    return Trained(plan, resolved, evaluation, reference, labels)


def questions_of(recipe: Recipe, ready: Ready) -> list[samples.Question]:
    """Held-out prompts that are answered before and after; none if the model writes no texts."""
    writes = recipe.head(ready.spec) in (heads.CAUSAL, heads.SEQUENCE_TO_SEQUENCE)
    return samples.choose(ready.data.evaluation) if writes else []


def watch_over(
    recipe: Recipe,
    ready: Ready,
    log: TrainingLog,
    measure: Callable[[], Measures],
    known_answer: Callable[[], KnownAnswer | None],
    companion: Companion | None = None,
) -> Watch:
    """The watch over this run."""
    watched = Watched(
        settings=ready.settings,
        reporter=ready.context.reporter,
        log=log,
        scratch=ready.context.scratch / "trainer",
        evaluate=measure if ready.data.evaluation else None,
        early_stopping=ready.spec.training.early_stopping,
        criterion=recipe.criterion,
        known_answer=known_answer,
        figures=recipe.figures,
        companion=companion,
    )
    return Watch(watched)


def measured(recipe: Recipe, ready: Ready, trainer: Foreign) -> Measures:
    """The held-out figures, reported."""
    reporter = ready.context.reporter
    reporter.phase("Evaluating")
    measures = recipe.measure(ready, trainer)
    if "loss" in measures:
        reporter.evaluated(f"{measures['loss']:.4f}")
    return measures


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


def _with_parameters(ready: Ready, net: Model) -> Plan:
    trainable, total = count_parameters(net)
    counts = {"trainable_parameters": trainable, "total_parameters": total}
    return ready.data.plan.model_copy(update=counts)


def _stopped(watch: Watch, steps: int) -> list[Resolved]:
    if not watch.stopped_early:
        return []
    why = "the held-out figure got no better; the best evaluation's weights are published"
    return [Resolved(field="training.earlyStopping", value=f"stopped at step {steps}", why=why)]
