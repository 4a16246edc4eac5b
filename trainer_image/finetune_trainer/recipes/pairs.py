"""What the recipes of all methods on preference pairs have in common. Base of theirs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import processes, verify
from finetune_trainer.batches import Batch, Collator
from finetune_trainer.context import Context
from finetune_trainer.data.mapped import longest_first
from finetune_trainer.data.prepare import preference_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import PreferenceRow, TokenRow
from finetune_trainer.foreign import Foreign, ModelConfig, Tokenizer
from finetune_trainer.preference import pairs
from finetune_trainer.recipes.recipe import Ready, Recipe, given
from finetune_trainer.resolve import Machine, Settings, resolve
from finetune_trainer.sanity import KnownAnswer
from finetune_trainer.watch import Measures

# Relative: dropout is off, so only the order of sums and bfloat16 may differ.
TOLERANCES = {"Float32": 1e-3, "BFloat16": 0.05}


class PairRecipe(Recipe):
    """A method that learns from pairs of a better and a worse answer."""

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[PreferenceRow]:
        """Pairs of answers with their prompts."""
        return preference_rows(given(context, tokenizer, config))

    def resolve(
        self, spec: FineTuneJobSpec, machine: Machine, data: Prepared[Any]
    ) -> tuple[Settings, list[Resolved]]:
        """Every setting; a row is two sequences, so a forward pass takes half as many rows."""
        settings, chosen = resolve(spec, machine, len(data.train), 2 * data.max_length)
        chosen = [*chosen, *no_dropout(spec)]
        return replace(settings, max_length=data.max_length), chosen

    def measure(self, ready: Ready, trainer: Foreign) -> Measures:
        """Loss and rewards, as means over the held-out pairs."""
        training = trainer.model.training
        trainer.model.eval()
        found = [
            trainer.pair_figures(trainer.batch(chunk))
            for chunk in pairs.chunks(trainer.eval_dataset, ready.settings.micro_batch_size)
        ]
        trainer.model.train(training)
        return pairs.measures(found)

    def figures(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Rewards and log-probabilities of the step's rows."""
        return pairs.figures(logs)

    def probe(self, ready: Ready) -> Batch:
        """Prompts with their better answers."""
        rows = ready.data.evaluation or ready.data.train
        texts = [row.prompt_ids + row.chosen_ids for row in rows[: verify.PROBE_ROWS]]
        tokens = [TokenRow(ids, ids, "") for ids in texts]
        return verify.probe_of(tokens, Collator(ready.tokenizer.pad_token_id))


def unchanged_answer(ready: Ready, trainer: Foreign) -> KnownAnswer:
    """The loss of the model before training, which the trainer has taken on the first step's rows."""
    loss = processes.total(trainer.unchanged)[0]
    tolerance = TOLERANCES[ready.settings.precision] * max(1.0, loss)
    return KnownAnswer(loss, tolerance, "that of the model before training, on the same rows")


def held_out(ready: Ready) -> Foreign:
    """The held-out pairs as a data set; None without any."""
    rows = longest_first(ready.data.evaluation)
    return pairs.dataset(rows) if rows else None


def no_dropout(spec: FineTuneJobSpec) -> list[Resolved]:
    """Tells that the dropout of the adapter is not used, if the spec asks for one."""
    if not (spec.tuning.lora and spec.tuning.lora.dropout):
        return []
    why = f"{spec.method.type} compares log-probabilities, which dropout would make random"
    return [Resolved(field="tuning.lora.dropout", value="0", why=why)]
