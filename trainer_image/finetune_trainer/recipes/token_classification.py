"""Supervised fine-tuning of a classifier of words: a tag a word, such as named entities.

The tag stands at the first token of its word; the other tokens carry no loss. The tags are those of the
training rows. The loop is that of transformers' Trainer.
"""

from collections.abc import Sequence

from finetune_trainer.batches import Collator, dataset
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepare import tag_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.foreign import Foreign
from finetune_trainer.recipes.classification import Classification
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.supervised.entities import are_entity_tags, count_entities
from finetune_trainer.supervised.metrics import accuracy, macro_f1
from finetune_trainer.supervised.scores import Scores
from finetune_trainer.watch import Measures


class TokenClassification(Classification):
    """The method SFT for token classification."""

    def rows(self, given: Given) -> Prepared[TokenRow]:
        """Texts with the numbers of their words' tags."""
        return tag_rows(given)

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
