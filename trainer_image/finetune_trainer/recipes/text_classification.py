"""Supervised fine-tuning of a classifier of texts: one class a text.

For encoders such as BERT, and for decoders, which get one linear output on the last token. The classes
are those of the training rows. The loop is that of transformers' Trainer.
"""

from dataclasses import replace

from finetune_trainer import heads, model
from finetune_trainer.context import Context
from finetune_trainer.data.prepare import class_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import ClassRow
from finetune_trainer.early_stopping import Criterion
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.recipes.recipe import Ready, given
from finetune_trainer.recipes.supervised import Supervised
from finetune_trainer.supervised.collators import ClassCollator, class_dataset
from finetune_trainer.supervised.metrics import accuracy, macro_f1
from finetune_trainer.supervised.origin import origin_of_head, require_classes
from finetune_trainer.supervised.scores import Scores
from finetune_trainer.watch import Measures


class TextClassification(Supervised):
    """The method SFT for text classification."""

    criterion = Criterion("f1", higher_is_better=True)

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[ClassRow]:
        """Texts with the numbers of their classes, which the model will have."""
        data = class_rows(given(context, tokenizer, config))
        require_classes(context.base, data.label_names)
        heads.classify(config, data.label_names)
        return data

    def load(self, ready: Ready) -> Model:
        """The model, which on a decoder must know padding to find the last token of a text."""
        net = super().load(ready)
        model.tell_padding(net, ready.tokenizer)
        return net

    def settle(self, ready: Ready, net: Model) -> Ready:
        """The run, which also tells whether the head is new."""
        note = origin_of_head(ready.context.base, self.head(ready.spec), ready.data.label_names)
        return replace(ready, resolved=[*ready.resolved, note])

    def batches(self, ready: Ready) -> ClassCollator:
        """Texts with their classes."""
        return ClassCollator.of(ready.tokenizer, ready.config)

    def dataset(self, ready: Ready) -> Foreign:
        """The training rows."""
        return class_dataset(ready.data.train)

    def figures_of(self, scores: Scores, ready: Ready) -> Measures:
        """Share of right answers, and the mean F1 of the classes."""
        return {"accuracy": accuracy(scores.pairs), "f1": macro_f1(scores.pairs)}
