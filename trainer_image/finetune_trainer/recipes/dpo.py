"""Direct preference optimisation with all its losses, and identity preference optimisation.

DPO (Rafailov et al. 2023, arXiv 2305.18290) and IPO (Azar et al. 2023, arXiv 2310.12036) hold a policy
against a reference, by the log-ratios r = ln π(y|x) - ln π_ref(y|x) of two answers. The loop and the
losses are TRL's; rows, reference, checks and evaluation are ours.
"""

from functools import partial
from pathlib import Path
from typing import Any

from transformers import PrinterCallback
from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from finetune_api.v1alpha1 import method
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.method import Reference, WeightedLoss
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import processes
from finetune_trainer.arguments_preference import dpo_arguments, likelihood
from finetune_trainer.callback import WatchCallback
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.fast.told import answers
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.preference.dpo_trainer import ReferencedPairs
from finetune_trainer.preference.known_answers import AT_REFERENCE
from finetune_trainer.preference.pairs import dataset
from finetune_trainer.preference.reference import open_reference, told
from finetune_trainer.recipes.pairs import PairRecipe, held_out
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.resolve import Machine, Settings
from finetune_trainer.sanity import KnownAnswer
from finetune_trainer.watch import Watch

# Relative. The reference's rows were padded in other company, which rounds otherwise.
TOLERANCES = {"Float32": 1e-3, "BFloat16": 0.05}


class DPO(PairRecipe):
    """The method DPO.

    Attributes:
        field: Path of its block below `spec`.
    """

    field = "method.dpo"

    def block(self, spec: FineTuneJobSpec) -> method.DPO:
        """The settings of the method."""
        return spec.method.dpo or method.DPO()

    def resolve(
        self, spec: FineTuneJobSpec, machine: Machine, data: Prepared[Any]
    ) -> tuple[Settings, list[Resolved]]:
        """Every setting, and what the reference is."""
        settings, chosen = super().resolve(spec, machine, data)
        reference = told(f"{self.field}.reference", self._reference(spec), spec.tuning)
        return settings, [*chosen, reference]

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """TRL's trainer with our rows, our reference and our watch."""
        block, reference = self.block(ready.spec), self._reference(ready.spec)
        folder = ready.context.scratch / "trainer"
        trainer = ReferencedPairs(
            settings=ready.settings,
            make_reference=partial(open_reference, ready, f"{self.field}.reference", reference),
            precompute=reference.precompute,
            likelihood=likelihood(block.losses),
            model=net,
            args=DPOConfig(**dpo_arguments(ready.settings, folder, block)),
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
        """What became of the log-probabilities of answers, and of the reference."""
        return [*answers(trainer.fitted, trainer.fitted_reference), *trainer.told_in_steps()]

    def before_training(self, trainer: Foreign, checkpoint: Path | None) -> list[Resolved]:
        """Ask the reference about the rows."""
        remembered = trainer.remember(checkpoint)
        return [remembered.told(f"{self.field}.reference")] if remembered else []

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer | None:
        """The losses of two equal policies, weighted."""
        block = self.block(ready.spec)
        if self._reference(ready.spec).source:
            return None
        pairwise = [loss for loss in block.losses if loss.type != "SFT"]
        loss = sum(
            each.weight * AT_REFERENCE[each.type](block.beta, block.label_smoothing)
            for each in pairwise
        )
        if weight := likelihood(block.losses):
            surprise, tokens = processes.total(*trainer.first_likelihood)
            loss += weight * surprise / tokens
        tolerance = TOLERANCES[ready.settings.precision] * max(1.0, loss)
        return KnownAnswer(loss, tolerance, "policy and reference are still the same")

    def _reference(self, spec: FineTuneJobSpec) -> Reference:
        return self.block(spec).reference or Reference()


class IPO(DPO):
    """The method IPO: DPO with the loss (r of the better - r of the worse - 1/(2β))², r a token."""

    field = "method.ipo"

    def block(self, spec: FineTuneJobSpec) -> method.DPO:
        """The settings of the method, as DPO's."""
        losses = [WeightedLoss(type="IPO")]
        if spec.method.ipo is None:
            return method.DPO(losses=losses)
        return method.DPO(
            beta=spec.method.ipo.beta, losses=losses, reference=spec.method.ipo.reference
        )
