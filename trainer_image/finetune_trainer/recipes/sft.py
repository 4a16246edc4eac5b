"""Supervised fine-tuning of a causal language model.

The loop is that of TRL's SFTTrainer; rows, masks, checks and evaluation are ours. The loss is a mean
over the supervised tokens of the whole batch, however it is split.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import isolation, model, processes, verify
from finetune_trainer.arguments import sft_arguments
from finetune_trainer.batches import Batch, Collator, dataset, packed_dataset, streaming_dataset
from finetune_trainer.callback import WatchCallback
from finetune_trainer.context import Context
from finetune_trainer.data import packing
from finetune_trainer.data.prepare import token_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation import TokenLoss, mean_loss
from finetune_trainer.fast import choice
from finetune_trainer.fast.flat import FlatCollator, tokens
from finetune_trainer.fast.head import installed
from finetune_trainer.fast.loss import summed_loss
from finetune_trainer.fast.order import SortedSteps
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.recipes import sparing
from finetune_trainer.recipes.recipe import Ready, Recipe, given
from finetune_trainer.resolve import Machine, Settings, divided, resolve
from finetune_trainer.resume.trainer import Resumable
from finetune_trainer.sanity import KnownAnswer, before_first_step
from finetune_trainer.watch import Measures, Watch

FIRST_LOSS_TOLERANCE = 0.05


class FirstStep(Resumable, SFTTrainer):
    """TRL's trainer, which also takes the loss of the unchanged model on the first step's rows.

    Args:
        lengths: Tokens of each row, where rows are padded.
        rows: Rows of a step, over all processes.

    Attributes:
        unchanged: That loss.
    """

    def __init__(
        self,
        *,
        unchanged: TokenLoss,
        lengths: Sequence[int] | None,
        rows: int,
        **arguments: Foreign,
    ) -> None:
        self.unchanged = unchanged
        self._lengths, self._rows = lengths, rows
        super().__init__(**arguments)

    def _get_train_sampler(self, *arguments: Foreign, **named: Foreign) -> Foreign:
        sampler = super()._get_train_sampler(*arguments, **named)
        if sampler is None or self._lengths is None:
            return sampler
        return SortedSteps(sampler, self._lengths, self._rows)

    def compute_loss(
        self,
        model: Model,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Foreign = None,
    ) -> Foreign:
        """The share of one forward pass in the loss of its step."""
        if self.state.global_step == 0:
            with before_first_step(model):
                self.unchanged.add(model, inputs)
        if not installed(model):
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if "position_ids" in inputs:
                # Of packed rows TRL counts one sequence a batch.
                self._total_train_tokens += inputs["input_ids"][1:].numel()
            return loss
        self._count(inputs)
        summed = model(**inputs, read=summed_loss).loss
        # The number is that of all processes, whose gradients are averaged.
        return summed / max(int(num_items_in_batch), 1) * self.accelerator.num_processes

    def _count(self, inputs: Batch) -> None:
        """Add the tokens of all processes to what is logged."""
        counted = torch.as_tensor(tokens(inputs), device=inputs["input_ids"].device)
        self._total_train_tokens += int(self.accelerator.gather(counted).sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]


class SFT(Recipe):
    """The method SFT for text generation."""

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[TokenRow]:
        """Token rows with masks, packed where that is wanted or worth it."""
        data, notes = packing.decide(
            context.run.spec, token_rows(given(context, tokenizer, config))
        )
        return replace(data, resolved=[*data.resolved, *notes])

    def resolve(
        self, spec: FineTuneJobSpec, machine: Machine, data: Prepared[Any]
    ) -> tuple[Settings, list[Resolved]]:
        """Every setting; with packing, batches and steps count sequences."""
        return resolve(spec, machine, len(data.packed or data.train), data.max_length)

    def settle(self, ready: Ready, net: Model) -> Ready:
        """The run with its fast paths, once it is proved that rows in one sequence are apart.

        Raises:
            TrainerError: RowsNotIsolated if they do and packing was demanded.
        """
        ready = self._isolated(ready, net)
        return choice.settle(ready, net)

    def _isolated(self, ready: Ready, net: Model) -> Ready:
        if not ready.data.packed:
            return ready
        found = isolation.prove(net, ready.data.packed, _collator(ready), ready.settings)
        if found.holds:
            note = Resolved(field="data.packing.isolation", value="proved", why=str(found))
            return replace(ready, resolved=[*ready.resolved, note])
        if ready.spec.data.packing == "Enabled":
            raise TrainerError(Reason.ROWS_NOT_ISOLATED, f"{ready.context.base.uri}: {found}")
        return self._unpacked(ready, found)

    def _unpacked(self, ready: Ready, found: isolation.Isolation) -> Ready:
        data = replace(ready.data, packed=None)
        machine = model.machine(laptop=ready.context.laptop)
        divisor = ready.context.run.micro_batch_divisor
        settings, chosen = divided(*self.resolve(ready.spec, machine, data), divisor)
        chosen.append(Resolved(field="data.packing", value="Disabled", why=str(found)))
        again = {choice.field for choice in chosen}
        kept = [choice for choice in ready.resolved if choice.field not in again]
        settings, before = replace(settings, strategy=ready.settings.strategy), ready.settings
        ready = replace(ready, data=data, settings=settings, resolved=[*kept, *chosen])
        return sparing.replanned(ready, before)

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """TRL's trainer with our rows, our collator and our watch."""
        trainer = FirstStep(
            unchanged=TokenLoss(ready.settings),
            lengths=_padded_lengths(ready),
            rows=ready.settings.batch_size,
            model=net,
            args=SFTConfig(**sft_arguments(ready.settings, ready.context.scratch / "trainer")),
            train_dataset=_train_dataset(ready),
            processing_class=ready.tokenizer,
            data_collator=_collator(ready),
            callbacks=[WatchCallback(watch)],
        )
        # It prints Python dictionaries to stdout.
        trainer.remove_callback(PrinterCallback)
        # TRL's loss divides by the tokens of the whole batch, whatever the model's own forward takes.
        trainer.model_accepts_loss_kwargs = True
        return trainer

    def fast_paths(self, ready: Ready, trainer: Foreign) -> list[Resolved]:
        """Told by `settle` already."""
        return []

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer:
        """The loss of the model before training, on the same tokens, however they were split."""
        loss, tokens = processes.total(trainer.unchanged.loss, trainer.unchanged.tokens)
        loss /= tokens
        # Dropout within the model, and bfloat16, are what may differ.
        tolerance = FIRST_LOSS_TOLERANCE * max(1.0, loss)
        return KnownAnswer(loss, tolerance, "that of the model before training, on the same rows")

    def measure(self, ready: Ready, trainer: Foreign) -> Measures:
        """The loss a supervised token."""
        rows, settings = ready.data.evaluation, ready.settings
        return {"loss": mean_loss(trainer.model, rows, settings, _collator(ready))}

    def probe(self, ready: Ready) -> Batch:
        """Rows as they are trained on."""
        rows = ready.data.evaluation or ready.data.train
        # The published model is opened by libraries that know nothing of ours.
        return verify.probe_of(rows, Collator(ready.tokenizer.pad_token_id))


def _train_dataset(ready: Ready) -> Foreign:
    if ready.data.packed:
        return packed_dataset(ready.data.packed, ready.context.tokens)
    if ready.data.stream is None:
        return dataset(ready.data.train)
    return streaming_dataset(ready.data.stream)


def _padded_lengths(ready: Ready) -> list[int] | None:
    if ready.flat or ready.data.stream is not None:
        return None
    return [row.length for row in ready.data.packed or ready.data.train]


def _collator(ready: Ready) -> Collator:
    kind = FlatCollator if ready.flat else Collator
    return kind(ready.tokenizer.pad_token_id)
