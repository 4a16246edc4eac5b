"""Supervised fine-tuning of a causal language model, with all weights or a LoRA adapter.

Run by `run`. The loop is that of TRL's SFTTrainer; rows, masks, checks, evaluation and publication are
ours. The loss is a mean over the supervised tokens of the whole batch, however it is split.
"""

import gc
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer

from finetune_api.records import Report
from finetune_api.v1alpha1.status import Evaluation, Plan, Resolved
from finetune_trainer import adapters, model, publish, save, verify
from finetune_trainer.arguments import sft_arguments
from finetune_trainer.batches import Collator, dataset
from finetune_trainer.callback import TrainingWatch
from finetune_trainer.context import Context
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.evaluation import mean_loss
from finetune_trainer.foreign import CausalLM, Tokenizer
from finetune_trainer.output_manifest import OutputFile, Verification
from finetune_trainer.resolve import Settings, resolve
from finetune_trainer.sanity import fingerprints, require_movement
from finetune_trainer.storage import Place
from finetune_trainer.training_log import TrainingLog


@dataclass(frozen=True)
class Ready:
    """Data and settings, before the weights are loaded."""

    tokenizer: Tokenizer
    config: Any
    data: Prepared[TokenRow]
    settings: Settings
    resolved: list[Resolved]

    @property
    def collator(self) -> Collator:
        """Makes the batches of this run."""
        return Collator(self.tokenizer.pad_token_id)


@dataclass(frozen=True)
class Trained:
    """What is left of training once the model is freed; its files lie in the output folder."""

    plan: Plan
    evaluation: Evaluation | None
    reference: verify.Reference


def run(context: Context) -> Report:
    """Train, publish and verify."""
    ready = load_data(context)
    trained = train(context, ready)
    # Only now is the trained model out of memory, and the published one can be loaded beside nothing.
    gc.collect()
    torch.cuda.empty_cache()
    place = publish.attempt_place(context.output, context.run)
    context.reporter.phase("Publishing")
    files = publish.upload(context.output_folder, place)
    context.reporter.phase("Verifying")
    verification = verify_published(context, ready, trained, place, files)
    facts = (ready.resolved, trained.plan, trained.evaluation)
    manifest = publish.make_manifest(context.run, context.base, place, files, facts, verification)
    return publish.write_manifest(context.output, context.run, manifest)


def load_data(context: Context) -> Ready:
    """Tokenizer, token rows, and every setting resolved."""
    context.reporter.phase("PreparingData")
    spec, base = context.run.spec, context.base
    config = model.load_config(base.folder, base.uri)
    tokenizer = model.load_tokenizer(base.tokenizer, base.uri, spec.data.chat_template)
    padding = model.set_pad_token(tokenizer)
    limit = model.position_limit(config)
    data = prepare(context.examples, spec.data, tokenizer, limit, spec.training.seed)
    machine = model.machine(laptop=context.laptop)
    settings, chosen = resolve(spec, machine, len(data.train), data.max_length)
    resolved = [*context.resolved, *context.examples.resolved, *data.resolved, *padding, *chosen]
    context.reporter.resolved(resolved, data.plan)
    return Ready(tokenizer, config, data, settings, resolved)


def train(context: Context, ready: Ready) -> Trained:
    """Everything between loading the weights and having the output folder."""
    spec, settings, rows = context.run.spec, ready.settings, ready.data.evaluation
    context.reporter.phase("LoadingModel")
    net = load_model(context, ready)
    trainable, total = adapters.count_parameters(net)
    plan = ready.data.plan.model_copy(
        update={"trainable_parameters": trainable, "total_parameters": total}
    )
    context.reporter.resolved(ready.resolved, plan)
    tensorboard = spec.tracking is None or spec.tracking.tensorboard
    log = TrainingLog(context.output_folder, tensorboard=tensorboard)
    trainer = build_trainer(context, ready, net, log)
    before = evaluate(context, ready, net) if rows else None
    start = fingerprints(net)
    trainer.train()
    require_movement(net, start, trainer.state.global_step)
    stored = model.stored_dtype(context.base.folder)
    if spec.tuning.type == "Full":
        save.round_weights(net, stored)
    after = evaluate(context, ready, net) if rows else None
    evaluation = losses(before, after)
    log.close()
    context.reporter.phase("Saving")
    reference = verify.reference(net, rows or ready.data.train, settings, ready.collator)
    full = spec.tuning.type == "Full"
    folder = context.output_folder
    save.save_model(net, ready.tokenizer, context.base, folder, full=full, dtype=stored)
    save.save_records(folder, context.run, ready.resolved, plan, evaluation)
    return Trained(plan, evaluation, reference)


def load_model(context: Context, ready: Ready) -> CausalLM:
    """The model with its trainable parameters, on the device."""
    spec, settings = context.run.spec, ready.settings
    set_seed(settings.seed)
    source = context.base
    base = model.load_model(source, ready.config, settings.weights, settings.device)
    model.check_vocabulary(ready.tokenizer, base, source.uri)
    checkpointing = settings.gradient_checkpointing
    return adapters.apply(base, spec.tuning, source.identity, checkpointing=checkpointing)


def build_trainer(context: Context, ready: Ready, net: CausalLM, log: TrainingLog) -> SFTTrainer:
    """TRL's trainer with our rows, our collator and our callback."""
    settings, rows = ready.settings, ready.data.evaluation

    def held_out_loss() -> float:
        return mean_loss(net, rows, settings, ready.collator)

    watch = TrainingWatch(settings, context.reporter, log, held_out_loss if rows else None)
    trainer = SFTTrainer(
        model=net,
        args=SFTConfig(**sft_arguments(settings, context.scratch / "trainer")),
        train_dataset=dataset(ready.data.train),
        processing_class=ready.tokenizer,
        data_collator=ready.collator,
        callbacks=[watch],
    )
    # It prints Python dictionaries to stdout.
    trainer.remove_callback(PrinterCallback)
    # TRL's loss divides by the tokens of the whole batch, whatever the model's own forward takes.
    trainer.model_accepts_loss_kwargs = True
    return trainer


def evaluate(context: Context, ready: Ready, net: CausalLM) -> float:
    """The held-out loss, reported."""
    context.reporter.phase("Evaluating")
    loss = mean_loss(net, ready.data.evaluation, ready.settings, ready.collator)
    context.reporter.evaluated(f"{loss:.4f}")
    return loss


def losses(before: float | None, after: float | None) -> Evaluation | None:
    """Both losses for the report."""
    if before is None or after is None:
        return None
    return Evaluation(loss_before=f"{before:.4f}", loss_after=f"{after:.4f}")


def verify_published(
    context: Context, ready: Ready, trained: Trained, place: Place, files: list[OutputFile]
) -> Verification:
    """Read the output back from storage and compare it with what was trained."""
    folder = publish.fetch_back(place, context.scratch / "verify")
    verify.check_digests(folder, files)
    full = context.run.spec.tuning.type == "Full"
    reopened = verify.reopen(folder, context.base, ready.settings, full=full)
    return verify.compare(reopened, trained.reference, ready.settings)
