"""The course of a run that all methods share: prepare, load, measure, train, measure, publish, verify.

Called by `run` with the recipe of the method. What differs between methods is asked of the recipe.
"""

from dataclasses import replace
from typing import Any

from finetune_api.records import Report
from finetune_trainer import (
    compatible,
    distributed,
    freed,
    merged,
    model,
    processes,
    publish,
    strategies,
    verify,
)
from finetune_trainer.context import Context
from finetune_trainer.data import contract as contracts
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.fast import kernels
from finetune_trainer.foreign import Tokenizer
from finetune_trainer.recipes import foresight
from finetune_trainer.recipes.recipe import Ready, Recipe
from finetune_trainer.recipes.returned import Returned, verify_returned
from finetune_trainer.recipes.session import Session, Trained
from finetune_trainer.resolve import Machine, divided
from finetune_trainer.resume import checkpointing
from finetune_trainer.tuning import companion as companions
from finetune_trainer.tuning import virtual_tokens


def run(recipe: Recipe, context: Context) -> Report:
    """Train, publish and verify."""
    ready = prepare(recipe, context)
    distributed.join(ready.settings, ready.data)
    trained = train(recipe, ready)
    if not processes.is_main():
        return distributed.done()
    # Only now is the trained model out of memory, and the published one can be loaded beside nothing.
    freed.give_back()
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
    report = publish.write_manifest(context.output, context.run, manifest, trained.fence)
    checkpointing.clear(context.output, context.run)
    return report


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
    kernels.refuse(spec, machine.device)
    strategies.refuse(spec, machine.processes)
    config = model.load_config(base.folder, base.uri, recipe.head(spec))
    tokenizer = model.load_tokenizer(base.tokenizer, base.uri, spec.data.chat_template)
    padding = recipe.pad(tokenizer)
    data = keep_contract(recipe.prepare(context, tokenizer, config), context, tokenizer)
    context.examples.release()
    freed.trim()
    divisor = context.run.micro_batch_divisor
    settings, chosen = divided(*recipe.resolve(spec, machine, data), divisor)
    resolved = [*context.resolved, *context.examples.resolved, *data.resolved, *padding, *chosen]
    resolved = foresight.hedged(resolved, machine)
    ready = Ready(context, tokenizer, config, data, settings, resolved)
    told = companions.foretold(spec.tuning, recipe.updates(ready))
    told += virtual_tokens.told(spec.tuning, tokenizer)
    ready = foresight.complete(recipe, replace(ready, resolved=[*resolved, *told]), machine.memory)
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
    session = Session.begin(recipe, ready)
    start = session.train()
    return session.save(start.seen, session.look())
