"""Kahneman-Tversky optimisation: learning from single answers that were judged good or bad.

The formulas are in `preference.judged_trainer`, which is ours on the loop of transformers.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainingArguments
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from finetune_api.v1alpha1 import method
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.method import Reference
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import processes, verify
from finetune_trainer.arguments_preference import judged_arguments
from finetune_trainer.batches import Batch, Collator
from finetune_trainer.callback import WatchCallback
from finetune_trainer.context import Context
from finetune_trainer.data.mapped import longest_first
from finetune_trainer.data.prepare import judged_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import JudgedRow, TokenRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.fast.told import answers
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.preference.judged import dataset, shuffled
from finetune_trainer.preference.judged_trainer import JudgedAnswers
from finetune_trainer.preference.pairs import chunks
from finetune_trainer.preference.reference import open_reference, told
from finetune_trainer.recipes.pairs import no_dropout
from finetune_trainer.recipes.recipe import Ready, Recipe, given
from finetune_trainer.resolve import Machine, Settings, resolve
from finetune_trainer.sanity import KnownAnswer
from finetune_trainer.watch import Measures, Watch

REFERENCE = "method.kto.reference"
FIGURES = ("kl", "desirableReward", "undesirableReward")
# Relative. The reference's rows were padded in other company, which rounds otherwise.
TOLERANCES = {"Float32": 1e-3, "BFloat16": 0.05}
# From equation 8 of the paper: what good rows weigh over what bad ones do.
BALANCED = (1.0, 4 / 3)


class KTO(Recipe):
    """The method KTO."""

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[JudgedRow]:
        """Judged answers with their prompts."""
        data = judged_rows(given(context, tokenizer, config))
        return replace(data, resolved=[*data.resolved, *_balance(context.run.spec, data)])

    def resolve(
        self, spec: FineTuneJobSpec, machine: Machine, data: Prepared[Any]
    ) -> tuple[Settings, list[Resolved]]:
        """Every setting; each row goes with a strange answer, so a pass takes half as many rows.

        Raises:
            TrainerError: InvalidSpec if a step has one row.
        """
        settings, chosen = resolve(spec, machine, len(data.train), 2 * data.max_length)
        if settings.batch_size < 2 or len(data.train) < 2:
            message = (
                "`training.batchSize` is 1, but KTO holds each row against the answer of another row "
                "of its step"
            )
            raise TrainerError(
                Reason.INVALID_SPEC, message, "Set `training.batchSize` to 2 or more."
            )
        reference = told(REFERENCE, self._block(spec).reference or Reference(), spec.tuning)
        chosen = [*chosen, *no_dropout(spec), reference]
        return replace(settings, max_length=data.max_length), chosen

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """Our trainer with our rows, our reference and our watch."""
        block, settings = self._block(ready.spec), ready.settings
        reference = block.reference or Reference()
        folder, step = ready.context.scratch / "trainer", settings.batch_size
        held_out, store = longest_first(ready.data.evaluation), ready.context.tokens
        rows = shuffled(ready.data.train, settings.seed)
        trainer = JudgedAnswers(
            block=block,
            make_reference=partial(open_reference, ready, REFERENCE, reference),
            precompute=reference.precompute,
            settings=settings,
            model=net,
            args=TrainingArguments(**judged_arguments(settings, folder)),
            train_dataset=dataset(rows, step, store),
            eval_dataset=dataset(held_out, len(held_out), store, "judged-held-out")
            if held_out
            else None,
            processing_class=ready.tokenizer,
            data_collator=DataCollatorForUnpairedPreference(ready.tokenizer.pad_token_id),
            callbacks=[WatchCallback(watch)],
        )
        # It prints Python dictionaries to stdout.
        trainer.remove_callback(PrinterCallback)
        return trainer

    def fast_paths(self, ready: Ready, trainer: Foreign) -> list[Resolved]:
        """What became of the log-probabilities of answers, and of the reference."""
        return [*answers(trainer.fitted, trainer.fitted_reference), *trainer.told_in_steps()]

    def before_training(self, trainer: Foreign, checkpoint: Path | None) -> list[Resolved]:
        """Ask the reference about the rows."""
        remembered = trainer.remember(checkpoint)
        return [remembered.told(REFERENCE)] if remembered else []

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer | None:
        """Half the mean weight: while r and z0 are zero, σ is one half."""
        block = self._block(ready.spec)
        if block.reference and block.reference.source:
            return None
        good, bad = processes.total(trainer.desirable, trainer.undesirable)
        weights = good * block.desirable_weight + bad * block.undesirable_weight
        loss = 0.5 * weights / (good + bad)
        tolerance = TOLERANCES[ready.settings.precision] * max(1.0, loss)
        return KnownAnswer(loss, tolerance, "policy and reference are still the same")

    def measure(self, ready: Ready, trainer: Foreign) -> Measures:
        """Loss, rewards and z0 of the held-out rows."""
        training = trainer.model.training
        trainer.model.eval()
        rows = chunks(trainer.eval_dataset, ready.settings.micro_batch_size)
        found = [trainer.ratios(trainer.batch(chunk)) for chunk in rows]
        trainer.model.train(training)
        measures: Measures = trainer.measures(found)
        return measures

    def figures(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Rewards and z0 of the step's rows."""
        found = {name: float(logs[name]) for name in FIGURES if name in logs}
        if {"desirableReward", "undesirableReward"} <= found.keys():
            found["rewardMargin"] = found["desirableReward"] - found["undesirableReward"]
        return found

    def probe(self, ready: Ready) -> Batch:
        """Prompts with their answers."""
        rows = ready.data.evaluation or ready.data.train
        texts = [row.prompt_ids + row.completion_ids for row in rows[: verify.PROBE_ROWS]]
        tokens = [TokenRow(ids, ids, "") for ids in texts]
        return verify.probe_of(tokens, Collator(ready.tokenizer.pad_token_id))

    def _block(self, spec: FineTuneJobSpec) -> method.KTO:
        return spec.method.kto or method.KTO()


def _balance(spec: FineTuneJobSpec, data: Prepared[JudgedRow]) -> list[Resolved]:
    """Tells where the weights do not make up for unequal numbers of good and bad rows."""
    block = spec.method.kto or method.KTO()
    good = sum(row.desirable for row in data.train)
    bad = len(data.train) - good
    weighed = (block.desirable_weight * good, block.undesirable_weight * bad)
    if weighed[1] and BALANCED[0] <= weighed[0] / weighed[1] <= BALANCED[1]:
        return []
    why = (
        f"{good} good rows and {bad} bad ones, by their weights; its authors want from 1 : 1 to 4 : 3, "
        "see `desirableWeight` and `undesirableWeight`"
    )
    value = f"{weighed[0]:g} : {weighed[1]:g}"
    return [Resolved(field="method.kto.balance", value=value, why=why)]
