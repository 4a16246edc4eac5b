"""ORPO, CPO and SimPO: preference optimisation that needs no reference.

The formulas are in `preference.objectives`, the trainer is ours on the loop of transformers.
"""

from abc import abstractmethod

from transformers import PrinterCallback, TrainingArguments
from trl.trainer.dpo_trainer import DataCollatorForPreference

from finetune_api.v1alpha1 import method
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.arguments_preference import answer_arguments
from finetune_trainer.callback import WatchCallback
from finetune_trainer.fast import told
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.preference import objectives
from finetune_trainer.preference.objectives import Objective
from finetune_trainer.preference.pair_trainer import ReferenceFreePairs
from finetune_trainer.preference.pairs import dataset
from finetune_trainer.recipes.pairs import PairRecipe, held_out, unchanged_answer
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.sanity import KnownAnswer
from finetune_trainer.watch import Watch


class ReferenceFree(PairRecipe):
    """A method on pairs without a reference."""

    @abstractmethod
    def objective(self, spec: FineTuneJobSpec) -> Objective:
        """The loss."""

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """Our trainer with our rows and our watch."""
        folder = ready.context.scratch / "trainer"
        trainer = ReferenceFreePairs(
            objective=self.objective(ready.spec),
            settings=ready.settings,
            model=net,
            args=TrainingArguments(**answer_arguments(ready.settings, folder)),
            train_dataset=dataset(ready.data.train),
            eval_dataset=held_out(ready),
            processing_class=ready.tokenizer,
            data_collator=DataCollatorForPreference(ready.tokenizer.pad_token_id),
            callbacks=[WatchCallback(watch)],
        )
        # It prints Python dictionaries to stdout.
        trainer.remove_callback(PrinterCallback)
        return trainer

    def fast_paths(self, ready: Ready, trainer: Foreign) -> list[Resolved]:
        """What became of the log-probabilities of answers."""
        return told.answers(trainer.fitted)

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer:
        """The loss of the model before training."""
        return unchanged_answer(ready, trainer)


class ORPO(ReferenceFree):
    """The method ORPO."""

    def objective(self, spec: FineTuneJobSpec) -> Objective:
        """The loss."""
        return objectives.orpo(spec.method.orpo or method.ORPO())


class CPO(ReferenceFree):
    """The method CPO."""

    def objective(self, spec: FineTuneJobSpec) -> Objective:
        """The loss."""
        return objectives.cpo(spec.method.cpo or method.CPO())


class SimPO(ReferenceFree):
    """The method SimPO."""

    def objective(self, spec: FineTuneJobSpec) -> Objective:
        """The loss."""
        return objectives.simpo(spec.method.simpo or method.SimPO())
