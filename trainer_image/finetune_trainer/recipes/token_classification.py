"""Supervised fine-tuning of a classifier of words: a tag a word, such as named entities.

The tag stands at the first token of its word; the other tokens carry no loss. The tags are those of the
training rows. The loop is that of transformers' Trainer.
"""

from collections.abc import Sequence
from dataclasses import replace

from finetune_trainer import heads
from finetune_trainer.batches import Collator, dataset
from finetune_trainer.context import Context
from finetune_trainer.data.prepare import tag_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.early_stopping import Criterion
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.recipes.recipe import Ready, given
from finetune_trainer.recipes.supervised import Supervised
from finetune_trainer.supervised.entities import are_entity_tags, count_entities
from finetune_trainer.supervised.metrics import accuracy, macro_f1
from finetune_trainer.supervised.origin import origin_of_head, require_classes
from finetune_trainer.supervised.scores import Scores
from finetune_trainer.watch import Measures


class TokenClassification(Supervised):
    """The method SFT for token classification."""

    criterion = Criterion("f1", higher_is_better=True)

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[TokenRow]:
        """Texts with the numbers of their words' tags, which the model will have."""
        data = tag_rows(given(context, tokenizer, config))
        require_classes(context.base, data.label_names)
        heads.classify(config, data.label_names)
        return data

    def settle(self, ready: Ready, net: Model) -> Ready:
        """The run, which also tells whether the head is new."""
        note = origin_of_head(ready.context.base, self.head(ready.spec), ready.data.label_names)
        return replace(ready, resolved=[*ready.resolved, note])

    def batches(self, ready: Ready) -> Collator:
        """Texts with the tags of their words."""
        return Collator(ready.tokenizer.pad_token_id)

    def dataset(self, ready: Ready) -> Foreign:
        """The training rows."""
        return dataset(ready.data.train)

    def figures_of(self, scores: Scores, ready: Ready) -> Measures:
        """Accuracy of the tags; of entities precision, recall and F1, or else the mean F1 of the tags."""
        names = ready.data.label_names
        right = {"accuracy": accuracy(scores.pairs)}
        if not are_entity_tags(names):
            return {**right, "f1": macro_f1(scores.pairs)}
        found = count_entities(_named(scores.right, names), _named(scores.said, names))
        return {**right, "precision": found.precision, "recall": found.recall, "f1": found.f1}


def _named(rows: Sequence[Sequence[int]], names: Sequence[str]) -> list[list[str]]:
    return [[names[number] for number in row] for row in rows]
