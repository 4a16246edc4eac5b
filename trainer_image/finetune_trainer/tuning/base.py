"""The base model as it is trained: plain, or with its linear weights in 4 or 8 bits (QLoRA).

Used by the recipes, and by `verify` and the commands, which must hold the base as it was held in
training to get the same logits. QLoRA is Dettmers et al. 2023 (arXiv 2305.14314), the 8-bit base
Dettmers et al. 2022 (arXiv 2208.07339); both are bitsandbytes'. PEFT's preparation for such a base is
not used: it holds norms and embeddings in float32, which costs memory and is of no use to autocast.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from finetune_api.v1alpha1.tuning import Quantization
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.heads import Head
from finetune_trainer.model import DTYPES, load_merged, load_model, outline
from finetune_trainer.model_files import CONFIG
from finetune_trainer.sources import ModelSource
from finetune_trainer.tuning.targets import linear_modules


def load_base(
    source: ModelSource,
    config: ModelConfig,
    precision: str,
    device: str,
    head: Head,
    *,
    quantization: Quantization | None,
    scratch: Path | None = None,
) -> Model:
    """The model with its weights, adapters of earlier jobs merged in.

    Args:
        source: Where its files are.
        config: From `model.load_config`.
        precision: `Float32` or `BFloat16`: the dtype of the weights that are not quantised, and of the
            arithmetic with those that are.
        device: `cpu` or `cuda`.
        head: Which head it carries.
        quantization: How the linear weights are held; None for plain weights.
        scratch: Where a merged model may be written, to be quantised from there; without it, among
            the machine's temporary files.

    Raises:
        TrainerError: CorruptModel if tensors are missing or have other shapes.
    """
    if quantization is None:
        return load_model(source, config, precision, device, head)
    scratch = scratch or Path(tempfile.mkdtemp(prefix="finetune-"))
    whole = whole_source(source, config, head, scratch / "merged-base")
    packed = packing(quantization, config, head, DTYPES[precision])
    return load_model(whole, config, precision, device, head, packed)


@contextmanager
def keeping_dtypes(model: Model) -> Iterator[None]:
    """Keep a trainer that is made here from casting what is trained to bfloat16.

    TRL does so on a quantised base, and small updates would be lost; it tells one by these two marks.
    """
    marks = ("is_loaded_in_4bit", "is_loaded_in_8bit")
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    before = {mark: getattr(base, mark) for mark in marks if getattr(base, mark, False)}
    try:
        for mark in before:
            setattr(base, mark, False)
        yield
    finally:
        for mark, value in before.items():
            setattr(base, mark, value)


def packing(
    quantization: Quantization, config: ModelConfig, head: Head, compute: torch.dtype
) -> BitsAndBytesConfig:
    """The configuration for transformers: what is quantised, and how.

    Quantised are the linear modules that can get an adapter. The output head, which may share its
    weights with the embeddings, and a classifier, which is trained, are not.
    """
    left = _left_as_they_are(config, head)
    if quantization.type == "Int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=left)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type.lower(),
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=left,
    )


def whole_source(source: ModelSource, config: ModelConfig, head: Head, folder: Path) -> ModelSource:
    """The model without adapters on it: itself, or one that is written to a folder."""
    if not source.adapters:
        return source
    if not (folder / CONFIG).exists():
        load_merged(source, config, head).save_pretrained(folder)
    return ModelSource.of_folder(folder, source.uri)


def _left_as_they_are(config: ModelConfig, head: Head) -> list[str]:
    shapes = outline(config, head)
    quantized = {
        name
        for name in linear_modules(shapes, head)
        if not any(f".{part}" in f".{name}." for part in head.fresh)
    }
    return [
        name
        for name, module in shapes.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name not in quantized
    ]
