"""Models opened to be used and not trained: reward models, teachers, references, and for answers.

Recipes find the source at `Context.models["method.ppo.rewardModel"]` and its like, commands by a URI.
A head that would start fresh is refused here: an untrained reward model scores like any other.
"""

from dataclasses import replace
from pathlib import Path

from finetune_trainer import merge
from finetune_trainer.foreign import Model, ModelConfig, Tokenizer
from finetune_trainer.heads import CAUSAL, OF_TASK, SEQUENCE_CLASSIFICATION, Head, name_labels
from finetune_trainer.model import (
    load_config,
    load_tokenizer,
    set_pad_token,
    tell_padding,
)
from finetune_trainer.output_manifest import OutputManifest
from finetune_trainer.sources import ModelSource
from finetune_trainer.tuning.base import load_base


def head_of(manifest: OutputManifest | None) -> Head:
    """The head that an output carries; that of a language model where nothing says otherwise."""
    if manifest is None:
        return CAUSAL
    return SEQUENCE_CLASSIFICATION if manifest.method == "Reward" else OF_TASK[manifest.task]


def load_source(
    source: ModelSource,
    head: Head,
    precision: str,
    device: str,
    *,
    merged: bool = True,
    scratch: Path | None = None,
) -> tuple[Model, Tokenizer]:
    """A model in evaluation mode with frozen weights, and its tokenizer with a pad token.

    Args:
        source: Where its files are.
        head: Which head it must carry: `heads.SEQUENCE_CLASSIFICATION` for a reward model (one
            label), `heads.CAUSAL` for a teacher or a reference.
        precision: `Float32` or `BFloat16`: the dtype of the weights.
        device: `cpu` or `cuda`.
        merged: Merge every adapter, so that the model is a plain one. Otherwise the last one stays
            attached to a base that is held as it was in training: exactly the model that was verified
            when it was published, and the only way for adapters that live in the prompt.
        scratch: Where a merged base may be written, if that is to be quantised.

    Raises:
        TrainerError: UnsupportedModel if the model lacks the head, CorruptModel.
    """
    inner = source if merged else source.without_last_adapter()
    net = load_base(
        inner,
        config_of(source, head),
        precision,
        device,
        head,
        quantization=None if inner is source else source.quantization,
        scratch=scratch,
    )
    if inner is not source:
        net = merge.attach(net, source.adapters[-1], source.uri)
    tokenizer = load_tokenizer(source.tokenizer, source.uri, None)
    set_pad_token(tokenizer)
    tell_padding(net, tokenizer)
    return net.requires_grad_(False).eval(), tokenizer


def config_of(source: ModelSource, head: Head) -> ModelConfig:
    """The configuration, with the classes that the output was trained on.

    Raises:
        TrainerError: UnsupportedModel if neither the model nor an adapter brings the head.
    """
    strict = head if source.adapters else replace(head, fresh=())
    config = load_config(source.folder, source.uri, strict)
    if source.labels:
        name_labels(config, source.labels)
    return config
