"""What came back from storage, held against what was trained: the adapter, and the merged weights.

Called by `recipes.course` once the trained model is out of memory.
"""

from dataclasses import dataclass
from pathlib import Path

from finetune_api.v1alpha1.tuning import Quantization
from finetune_trainer import merged, verify
from finetune_trainer.foreign import Model
from finetune_trainer.output_manifest import MergedVerification, Verification
from finetune_trainer.recipes.recipe import Ready, Recipe
from finetune_trainer.sources import MERGED


@dataclass(frozen=True)
class Returned:
    """An output that was fetched back.

    Attributes:
        recipe: Of the method.
        ready: The run.
        folder: Where the output lies now.
        labels: Names of the classes, if the model has any.
    """

    recipe: Recipe
    ready: Ready
    folder: Path
    labels: list[str] | None

    def open(self, quantization: Quantization | None) -> Model:
        """The trained model, its base held as it is said here."""
        full = self.ready.spec.tuning.type == "Full"
        return self._open(self.folder, full=full, quantization=quantization)

    def open_merged(self) -> Model:
        """The merged model."""
        return self._open(self.folder / MERGED, full=True, quantization=None)

    def _open(self, folder: Path, *, full: bool, quantization: Quantization | None) -> Model:
        context, head = self.ready.context, self.recipe.head(self.ready.spec)
        return verify.reopen(
            folder,
            context.base,
            self.ready.settings,
            head,
            self.labels,
            full=full,
            quantization=quantization,
            scratch=context.scratch,
        )


def verify_returned(returned: Returned, trained: verify.Reference) -> Verification:
    """Compare everything that came back with what the trained model said.

    Raises:
        TrainerError: OutputVerificationFailed.
    """
    ready = returned.ready
    net = returned.open(ready.spec.tuning.quantization)
    found = verify.compare(net, trained, ready.settings)
    del net
    if not ready.spec.output.merged:
        return found
    return found.model_copy(update={"merged": _verify_merged(returned, trained)})


def _verify_merged(returned: Returned, trained: verify.Reference) -> MergedVerification:
    ready = returned.ready
    net = returned.open(None)
    wanted, moved = merged.expected(net, trained, ready.settings)
    del net
    base, settings = ready.context.base, ready.settings
    return merged.compare(returned.open_merged(), wanted, moved, base, settings)
