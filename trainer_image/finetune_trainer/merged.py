"""The tuned model as one: the adapter added into the weights of its base, published beside the adapter.

Called by `recipes.course` once the trained model is out of memory. The base is loaded as it is stored
and never quantised, whatever it was trained on, and the sum is stored in its dtype. What came back from
storage is held against the adapter on the same base.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import merge, stopping
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.heads import Head
from finetune_trainer.model import load_merged, stored_dtype
from finetune_trainer.output_manifest import MergedVerification
from finetune_trainer.resolve import Settings
from finetune_trainer.sources import MERGED, ModelSource
from finetune_trainer.verify import TOLERANCES, Reference, reference

# Of a weight, as a share of it: half a unit in the last place, twice.
UNITS = {torch.float32: 2.0**-23, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# Units that a layer may add to the logits: 1.3 were measured on a model of 30 layers.
UNITS_A_LAYER = 2.0


def write(
    folder: Path, base: ModelSource, config: ModelConfig, head: Head, tokenizer: Tokenizer
) -> None:
    """Add the adapter in a folder to its base; the sum goes into the folder `merged` within.

    Args:
        folder: The output, with its adapter.
        base: The model that was tuned.
        config: Of the base, with the names of classes if there are any.
        head: Which head the model carries.
        tokenizer: With the chat template that was trained on.

    Raises:
        TrainerError: CorruptModel if the sum is not finite; UnsupportedModel if there is no sum.
    """
    model = merge.merge(load_merged(base, config, head), folder, "the adapter")
    # Switched off for training.
    model.config.use_cache = getattr(config, "use_cache", True)
    model.save_pretrained(folder / MERGED)
    if model.can_generate():
        start = getattr(config, "decoder_start_token_id", None)
        stopping.write(folder / MERGED, stopping.generation_config(base, tokenizer, start))
    tokenizer.save_pretrained(folder / MERGED)


@torch.no_grad()
def expected(model: Model, trained: Reference, settings: Settings) -> tuple[Reference, float]:
    """What the merged model must say, and how far the adapter moves the logits.

    Args:
        model: The adapter on a base that is not quantised.
        trained: For the rows.
        settings: For device and precision.
    """
    tuned = reference(model, trained.batch, settings)
    with model.disable_adapter():
        plain = reference(model, trained.batch, settings)
    return tuned, relative(plain.logits, tuned)


def compare(
    model: Model, wanted: Reference, moved: float, base: ModelSource, settings: Settings
) -> MergedVerification:
    """Compare the merged model with the adapter on its base.

    Args:
        model: As it came back from storage.
        wanted: From `expected`.
        moved: From `expected`.
        base: For the dtype that it is stored in.
        settings: For device and precision.

    Raises:
        TrainerError: OutputVerificationFailed with the difference.
    """
    difference = relative(reference(model, wanted.batch, settings).logits, wanted)
    allowed = rounding(stored_dtype(base.folder), getattr(model.config, "num_hidden_layers", 1))
    tolerance = max(allowed, TOLERANCES[settings.precision])
    if not difference <= tolerance:
        message = (
            f"the merged model's logits differ from the adapter's by {difference:.3g} of their size; "
            f"accepted is {tolerance:.3g}"
        )
        raise TrainerError(Reason.OUTPUT_VERIFICATION_FAILED, message)
    return MergedVerification(
        relative_difference=difference, tolerance=tolerance, adapter_relative_difference=moved
    )


def rounding(dtype: torch.dtype, layers: int) -> float:
    """How far rounding may move the logits, as a share of their size.

    Every weight is rounded once more to its dtype when the adapter is added to it. The errors of the
    layers have nothing to do with each other, so that their sum grows with the root of their number. The
    largest difference of one logit says less: it grows with the number of logits that are looked at.

    Args:
        dtype: Of the stored weights.
        layers: Blocks of the model.
    """
    return UNITS_A_LAYER * UNITS.get(dtype, 0.0) * math.sqrt(layers)


def relative(logits: Tensor, wanted: Reference) -> float:
    """Size of the difference as a share of the size of the logits, over all real tokens."""
    real: Foreign = slice(None)
    if logits.dim() == 3 and logits.shape[:2] == wanted.batch["attention_mask"].shape:
        real = wanted.batch["attention_mask"].bool().cpu()
    difference = torch.linalg.vector_norm((logits - wanted.logits)[real])
    return float(difference / torch.linalg.vector_norm(wanted.logits[real]))
