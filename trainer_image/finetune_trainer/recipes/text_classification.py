"""Supervised fine-tuning of a classifier of texts: one class a text.

For encoders such as BERT, and for decoders, which get one linear output on the last token. The classes
are those of the training rows. The loop is that of transformers' Trainer.
"""

from finetune_trainer import model
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepare import class_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import ClassRow
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.recipes.classification import Classification
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.supervised.collators import ClassCollator, class_dataset
from finetune_trainer.supervised.metrics import accuracy, macro_f1
from finetune_trainer.supervised.scores import Scores
from finetune_trainer.watch import Measures


class TextClassification(Classification):
    """The method SFT for text classification."""

    def rows(self, given: Given) -> Prepared[ClassRow]:
        """Texts with the numbers of their classes."""
        return class_rows(given)

    def load(self, ready: Ready) -> Model:
        """The model, which on a decoder must know padding to find the last token of a text."""
        net = super().load(ready)
        model.tell_padding(net, ready.tokenizer)
        return net

    def batches(self, ready: Ready) -> ClassCollator:
        """Texts with their classes."""
        return ClassCollator.of(ready.tokenizer, ready.config)

    def dataset(self, ready: Ready) -> Foreign:
        """The training rows."""
        return class_dataset(ready.data.train)

    def figures_of(self, scores: Scores, ready: Ready) -> Measures:
        """Share of right answers, and the mean F1 of the classes."""
        return {"accuracy": accuracy(scores.pairs), "f1": macro_f1(scores.pairs)}
