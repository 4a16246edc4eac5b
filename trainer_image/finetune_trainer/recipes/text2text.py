"""Supervised fine-tuning of an encoder-decoder language model: a text in, a text out.

The loop is that of transformers' Seq2SeqTrainer; rows, loss, checks and evaluation are ours. What the
decoder reads is made of the labels by the model itself.
"""

from transformers import Seq2SeqTrainingArguments

from finetune_trainer.batches import Collator, dataset
from finetune_trainer.context import Context
from finetune_trainer.data.prepare import sequence_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import SequenceRow
from finetune_trainer.foreign import Foreign, ModelConfig, Tokenizer
from finetune_trainer.recipes.recipe import Ready, given
from finetune_trainer.recipes.supervised import Supervised
from finetune_trainer.supervised.metrics import accuracy
from finetune_trainer.supervised.scores import Scores
from finetune_trainer.supervised.trainer import SequenceTrainer
from finetune_trainer.watch import Measures


class Text2Text(Supervised):
    """The method SFT for text-to-text generation."""

    trainer = SequenceTrainer
    arguments = Seq2SeqTrainingArguments

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[SequenceRow]:
        """Inputs with what is to be written."""
        return sequence_rows(given(context, tokenizer, config))

    def batches(self, ready: Ready) -> Collator:
        """Inputs and labels, each padded to its own longest row."""
        return Collator(ready.tokenizer.pad_token_id)

    def dataset(self, ready: Ready) -> Foreign:
        """The training rows."""
        return dataset(ready.data.train)

    def figures_of(self, scores: Scores, ready: Ready) -> Measures:
        """Share of the tokens that are likeliest where they stand, given those before them."""
        return {"tokenAccuracy": accuracy(scores.pairs)}
