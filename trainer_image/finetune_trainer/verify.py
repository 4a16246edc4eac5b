"""Proof that what was published is what was trained: fetch it back, load it plainly, compare logits.

Called by `publish`. It uses nothing of the trained model but its logits on one batch of real rows, so
the trained model can be freed before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Quantization
from finetune_trainer.batches import Batch, Collator
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation import autocast
from finetune_trainer.foreign import Model
from finetune_trainer.heads import CAUSAL, Head, name_labels
from finetune_trainer.merge import attach
from finetune_trainer.model import load_config, load_tokenizer, tell_padding
from finetune_trainer.output_manifest import OutputFile, Verification
from finetune_trainer.resolve import Settings
from finetune_trainer.selection import sha256
from finetune_trainer.sources import ModelSource
from finetune_trainer.tuning.base import load_base

# A logit is a sum over the hidden size: rounding grows with the size of the logits.
TOLERANCES = {"Float32": 1e-5, "BFloat16": 2e-2}
PROBE_ROWS = 4
PROBE_TOKENS = 128


@dataclass(frozen=True)
class Reference:
    """What the trained model said.

    Attributes:
        batch: Real rows, cut short.
        logits: Float32, on the CPU, padding included; of shape (rows, tokens, vocabulary) for a
            language model, (rows, labels) or (rows, tokens, labels) for a classifier.
    """

    batch: Batch
    logits: torch.Tensor


def probe_of(rows: Sequence[TokenRow], collator: Collator) -> Batch:
    """A few rows, cut short, as model inputs."""
    batch = collator.of_rows([row.truncated(PROBE_TOKENS) for row in rows[:PROBE_ROWS]], "cpu")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def reference(model: Model, probe: Batch, settings: Settings) -> Reference:
    """The trained model's logits on a probe."""
    return Reference(probe, _logits(model, probe, settings))


def check_digests(folder: Path, expected: Sequence[OutputFile]) -> None:
    """Compare the files that came back with those that were written.

    Raises:
        TrainerError: OutputVerificationFailed naming the file.
    """
    for file in expected:
        path = folder / file.path
        if not path.is_file():
            raise _failed(f"{file.path} is not in storage")
        if sha256(path) != file.sha256:
            raise _failed(f"{file.path} came back with another SHA-256")


def reopen(
    folder: Path,
    base: ModelSource,
    settings: Settings,
    head: Head = CAUSAL,
    labels: Sequence[str] | None = None,
    *,
    full: bool,
    quantization: Quantization | None = None,
    scratch: Path | None = None,
) -> Model:
    """Load the output as anybody would, its base held as it was in training.

    Args:
        folder: The output, as fetched from storage.
        base: The model that was tuned.
        settings: For device and precision.
        head: Which head the model carries.
        labels: Names of the classes, if the model has any.
        full: Whether all weights were tuned.
        quantization: How the base was held in training.
        scratch: Where a merged base lies or may be written.

    Raises:
        TrainerError: OutputVerificationFailed if tensors are missing or left over.
    """
    whole = ModelSource.of_folder(folder, "the output") if full else base
    try:
        config = load_config(whole.folder, whole.uri, head)
        if labels:
            name_labels(config, labels)
        model = load_base(
            whole,
            config,
            settings.weights,
            settings.device,
            head,
            quantization=quantization,
            scratch=scratch,
        )
        model = model if full else attach(model, folder, "the output")
        tell_padding(model, load_tokenizer(folder, "the output", None))
    except TrainerError as error:
        raise _failed(f"the output cannot be loaded: {error.message}") from error
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise _failed(f"the output cannot be loaded: {type(error).__name__}: {error}") from error
    return model


def compare(model: Model, trained: Reference, settings: Settings) -> Verification:
    """Compare the logits of the reopened model with those of the trained one.

    Raises:
        TrainerError: OutputVerificationFailed with the difference.
    """
    logits = _logits(model, trained.batch, settings)
    difference = float((logits - trained.logits).abs().max())
    scale = max(1.0, float(trained.logits.abs().max()))
    tolerance = TOLERANCES[settings.precision] * scale
    if not difference <= tolerance:
        raise _failed(f"the logits differ by {difference:.3g}; accepted is {tolerance:.3g}")
    return Verification(max_logit_difference=difference, tolerance=tolerance)


def _logits(model: Model, batch: Batch, settings: Settings) -> torch.Tensor:
    model.eval()
    inputs = {name: tensor.to(settings.device) for name, tensor in batch.items()}
    with torch.no_grad(), autocast(settings):
        logits: torch.Tensor = model(**inputs).logits
    return logits.float().cpu()


def _failed(what: str) -> TrainerError:
    return TrainerError(Reason.OUTPUT_VERIFICATION_FAILED, what)
