"""Supervised fine-tuning of a causal language model.

The loop is that of TRL's SFTTrainer; rows, masks, checks and evaluation are ours. The loss is a mean
over the supervised tokens of the whole batch, however it is split.
"""

from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from finetune_trainer import verify
from finetune_trainer.arguments import sft_arguments
from finetune_trainer.batches import Batch, Collator, dataset, streaming_dataset
from finetune_trainer.callback import WatchCallback
from finetune_trainer.context import Context
from finetune_trainer.data.prepare import token_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.evaluation import TokenLoss, mean_loss
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.recipes.recipe import Ready, Recipe, given
from finetune_trainer.sanity import KnownAnswer, as_before_training
from finetune_trainer.watch import Measures, Watch

FIRST_LOSS_TOLERANCE = 0.05


class FirstStep(SFTTrainer):
    """TRL's trainer, which also takes the loss of the unchanged model on the first step's rows.

    Attributes:
        unchanged: That loss.
    """

    def __init__(self, *, unchanged: TokenLoss, **arguments: Foreign) -> None:
        self.unchanged = unchanged
        super().__init__(**arguments)

    def compute_loss(
        self, model: Model, inputs: Batch, *rest: Foreign, **named: Foreign
    ) -> Foreign:
        """The loss of one forward pass."""
        if self.state.global_step == 0:
            with as_before_training(model):
                self.unchanged.add(model, inputs)
        return super().compute_loss(model, inputs, *rest, **named)


class SFT(Recipe):
    """The method SFT for text generation."""

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[TokenRow]:
        """Token rows with masks."""
        return token_rows(given(context, tokenizer, config))

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """TRL's trainer with our rows, our collator and our watch."""
        trainer = FirstStep(
            unchanged=TokenLoss(ready.settings),
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

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer:
        """The loss of the model before training, on the same tokens, however they were split."""
        loss = trainer.unchanged.mean
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
        return verify.probe_of(rows, _collator(ready))


def _train_dataset(ready: Ready) -> Foreign:
    if ready.data.stream is None:
        return dataset(ready.data.train)
    return streaming_dataset(ready.data.stream)


def _collator(ready: Ready) -> Collator:
    return Collator(ready.tokenizer.pad_token_id)
