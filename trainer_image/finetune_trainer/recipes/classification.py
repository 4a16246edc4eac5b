"""What the recipes of both classifications, of texts and of words, have in common. Base of theirs.

Their classes are those of the training rows, which a base with a head of its own must have.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

from finetune_trainer import heads
from finetune_trainer.context import Context
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.early_stopping import Criterion
from finetune_trainer.foreign import Model, ModelConfig, Tokenizer
from finetune_trainer.recipes.recipe import Ready, given
from finetune_trainer.recipes.supervised import Supervised
from finetune_trainer.supervised.origin import origin_of_head, require_classes


class Classification(Supervised):
    """The method SFT for a task whose labels are classes."""

    criterion = Criterion("f1", higher_is_better=True)

    @abstractmethod
    def rows(self, given: Given) -> Prepared[Any]:
        """Texts with the numbers of their classes."""

    def prepare(self, context: Context, tokenizer: Tokenizer, config: ModelConfig) -> Prepared[Any]:
        """Texts with the numbers of classes, which the model will have."""
        data = self.rows(given(context, tokenizer, config))
        require_classes(context.base, data.label_names)
        heads.classify(config, data.label_names)
        return data

    def settle(self, ready: Ready, net: Model) -> Ready:
        """The run, which also tells whether the head is new."""
        note = origin_of_head(ready.context.base, self.head(ready.spec), ready.data.label_names)
        return replace(ready, resolved=[*ready.resolved, note])
