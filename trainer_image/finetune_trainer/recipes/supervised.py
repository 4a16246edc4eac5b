"""What the recipes of the supervised tasks beside text generation have in common. Base of theirs.

Each forward pass has labels, the loss is their mean cross entropy over a whole step, and the loss of
the first step is that of the model before training, on the same rows.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from transformers import PrinterCallback, TrainingArguments

from finetune_trainer import heads, processes, verify
from finetune_trainer.arguments import label_arguments
from finetune_trainer.batches import Batch
from finetune_trainer.callback import WatchCallback
from finetune_trainer.data.rows import DataRow
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.recipes.recipe import Ready, Recipe
from finetune_trainer.sanity import KnownAnswer
from finetune_trainer.supervised.scores import Scores, score
from finetune_trainer.supervised.trainer import LabelTrainer
from finetune_trainer.watch import Measures, Watch

# Relative above 1.
TOLERANCES = {"Float32": 2e-3, "BFloat16": 0.05}
# Where the adapter has dropout of its own, the draws of the model's are others; LoftQ starts nearer to
# the base before it was quantised than the base is.
WITH_DROPOUT, CORRECTED = 0.2, 0.05


class Batches(Protocol):
    """Makes batches with labels from rows of one kind."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """A batch of rows of the data set."""
        ...

    def of_rows(self, rows: Sequence[Any], device: str) -> Batch:
        """A batch of rows, on a device."""
        ...


class Supervised(Recipe):
    """The method SFT for a task with labels.

    Attributes:
        trainer: Class of the trainer.
        arguments: Class of its arguments.
    """

    trainer: type[Any] = LabelTrainer
    arguments: type[Any] = TrainingArguments

    @abstractmethod
    def batches(self, ready: Ready) -> Batches:
        """Makes the batches of training."""

    @abstractmethod
    def dataset(self, ready: Ready) -> Foreign:
        """The training rows, with a column `length`."""

    @abstractmethod
    def figures_of(self, scores: Scores, ready: Ready) -> Measures:
        """Figures beside the loss."""

    def held_out_batches(self, ready: Ready) -> Batches:
        """Makes the batches of evaluation."""
        return self.batches(ready)

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """The library's trainer with our rows, our loss and our watch."""
        folder = ready.context.scratch / "trainer"
        trainer = self.trainer(
            settings=ready.settings,
            model=net,
            args=self.arguments(**label_arguments(ready.settings, folder)),
            train_dataset=self.dataset(ready),
            data_collator=self.batches(ready),
            processing_class=ready.tokenizer,
            callbacks=[WatchCallback(watch)],
        )
        # It prints Python dictionaries to stdout.
        trainer.remove_callback(PrinterCallback)
        return trainer

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer:
        """The loss of the model before training, on the same rows and with the same dropout."""
        loss, labels = processes.total(trainer.unchanged.loss, trainer.unchanged.labels)
        loss /= max(1, labels)
        lora, share = ready.spec.tuning.lora, TOLERANCES[ready.settings.precision]
        if lora and lora.variant == "LoftQ":
            share = max(share, CORRECTED)
        if lora and lora.dropout:
            share = max(share, WITH_DROPOUT)
        why = "that of the model before training, on the same rows"
        return KnownAnswer(loss, share * max(1.0, loss), why)

    def measure(self, ready: Ready, trainer: Foreign) -> Measures:
        """Loss a label, and the task's figures."""
        batches = self.held_out_batches(ready)

        def batch_of(rows: Sequence[DataRow]) -> Batch:
            return batches.of_rows(rows, "cpu")

        scores = score(trainer.model, ready.data.evaluation, ready.settings, batch_of)
        return {"loss": scores.loss, **self.figures_of(scores, ready)}

    def probe(self, ready: Ready) -> Batch:
        """Rows as they are trained on, without what is only there for the loss."""
        rows = (ready.data.evaluation or ready.data.train)[: verify.PROBE_ROWS]
        short = [row.truncated(verify.PROBE_TOKENS) for row in rows]
        batch = self.held_out_batches(ready).of_rows(short, "cpu")
        if self.head(ready.spec) is heads.SEQUENCE_TO_SEQUENCE:
            # The model makes of the labels what its decoder reads.
            return batch
        return {name: tensor for name, tensor in batch.items() if name != "labels"}
