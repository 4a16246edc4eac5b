"""Reward modelling: a score for an answer, learned from which of two answers is the better one.

With the score s of a prompt and its answer, the loss of a pair is that of the model of Bradley and
Terry (1952), as used by Ouyang et al. 2022 (arXiv 2203.02155), and a pull of the scores to zero, which
the pairs leave open (Eisenstein et al. 2023, arXiv 2312.09244):

    -ln σ(s⁺ - s⁻) + c (s⁺ + s⁻)²

The score is one linear output, new if the base has none, on the last token of a row. The loop and the
loss are TRL's; rows, checks and evaluation are ours.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback
from trl import RewardConfig

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.method import RewardModelling
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import heads, model, stopping
from finetune_trainer.arguments_preference import reward_arguments
from finetune_trainer.callback import WatchCallback
from finetune_trainer.context import Context
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import PreferenceRow
from finetune_trainer.fast import told
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.preference.pairs import dataset
from finetune_trainer.preference.reward_trainer import PairCollator, ScoredPairs
from finetune_trainer.recipes.pairs import PairRecipe, held_out, unchanged_answer
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.sanity import KnownAnswer
from finetune_trainer.watch import Measures, Watch

LABELS = ("reward",)
# TRL's names in its logs -> ours.
LOGGED = {"accuracy": "rewardAccuracy", "margin": "rewardMargin", "mean_reward": "meanReward"}


class Reward(PairRecipe):
    """The method Reward."""

    def head(self, spec: FineTuneJobSpec) -> heads.Head:
        """A classifier, whose one output is the score."""
        return heads.SEQUENCE_CLASSIFICATION

    def pad(self, tokenizer: Tokenizer) -> list[Resolved]:
        """A pad token that ends no answer: the score is read at the last token that is not padding."""
        notes = model.set_pad_token(tokenizer)
        ends = stopping.stop_tokens(tokenizer)
        if tokenizer.pad_token_id not in ends:
            return notes
        special = tokenizer.added_tokens_decoder
        spare = [number for number in special if special[number].special and number not in ends]
        if not spare:
            why = "there is no spare token; scores are read at the token before the end"
            return [Resolved(field="model.padToken", value=tokenizer.pad_token, why=why)]
        # Rows that begin with the start token would do with it too, but it is there to be read.
        chosen = min(spare, key=lambda number: (number == tokenizer.bos_token_id, number))
        tokenizer.pad_token = special[chosen].content
        why = "ends no answer, so scores are read at the end token"
        return [Resolved(field="model.padToken", value=tokenizer.pad_token, why=why)]

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[PreferenceRow]:
        """Pairs of answers with their prompts."""
        heads.name_labels(config, LABELS)
        return super().prepare(context, tokenizer, config)

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """TRL's trainer with our rows and our watch."""
        center = self._block(ready.spec).center_coefficient
        folder = ready.context.scratch / "trainer"
        trainer = ScoredPairs(
            settings=ready.settings,
            center=center,
            model=net,
            args=RewardConfig(**reward_arguments(ready.settings, folder, center)),
            train_dataset=dataset(ready.data.train),
            eval_dataset=held_out(ready),
            processing_class=ready.tokenizer,
            data_collator=PairCollator(ready.tokenizer.pad_token_id),
            callbacks=[WatchCallback(watch)],
        )
        # It prints Python dictionaries to stdout.
        trainer.remove_callback(PrinterCallback)
        return trainer

    def fast_paths(self, ready: Ready, trainer: Foreign) -> list[Resolved]:
        """What became of the rows of a pair."""
        return told.scores(trainer.against_packing)

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer:
        """The loss of the model before training: that of its scores, which a new head draws by lot."""
        return unchanged_answer(ready, trainer)

    def measure(self, ready: Ready, trainer: Foreign) -> Measures:
        """Loss, accuracy and scores, as means over the held-out pairs."""
        found = super().measure(ready, trainer)
        mean = (found["chosenReward"] + found["rejectedReward"]) / 2
        return {**found, "meanReward": mean}

    def figures(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Accuracy and scores of the step's rows."""
        return {ours: float(logs[name]) for name, ours in LOGGED.items() if name in logs}

    def _block(self, spec: FineTuneJobSpec) -> RewardModelling:
        return spec.method.reward or RewardModelling()
