"""Loading tokenizer, configuration and weights of a model from local folders, with the head it needs.

Called by the recipes after `model_files` has passed the files. Adapters of earlier jobs are merged.
Weights are loaded in the dtype that was asked for, never in another by default, and a tensor that is
missing ends the run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import merge, processes, zero
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.heads import CAUSAL, Head
from finetune_trainer.model_files import CONFIG, weight_files
from finetune_trainer.resolve import Machine
from finetune_trainer.sources import ModelSource

DTYPES = {"Float32": torch.float32, "BFloat16": torch.bfloat16}
# A bar for each file tells nothing in a log.
transformers_logging.disable_progress_bar()
_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len")


def machine(*, laptop: bool) -> Machine:
    """The device that this process sees."""
    count = processes.world_size()
    if not torch.cuda.is_available():
        return Machine("cpu", laptop=laptop, processes=count)
    gpu = torch.cuda.get_device_properties(processes.local_rank())
    able = torch.cuda.is_bf16_supported()
    return Machine("cuda", gpu.name, able, processes=count, memory=gpu.total_memory)


def load_tokenizer(folder: Path, source: str, chat_template: str | None) -> Tokenizer:
    """The tokenizer, with the spec's chat template in place of its own if there is one.

    Raises:
        TrainerError: UnsupportedModel.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # Each tokenizer class fails in its own way on files that do not belong to it.
        message = f"{source}: the tokenizer cannot be loaded: {_brief(error)}"
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message) from error
    if chat_template:
        tokenizer.chat_template = chat_template
    return tokenizer


def set_pad_token(tokenizer: Tokenizer) -> list[Resolved]:
    """Give the tokenizer a pad token if it has none, and say which.

    Padding never touches the loss: rows are masked by position. The token only matters to whoever
    batches prompts at inference.
    """
    if tokenizer.pad_token_id is not None:
        return []
    spare = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    used = {tokenizer.eos_token, tokenizer.bos_token}
    padding = [token for token in spare if token not in used and "pad" in token.lower()]
    token = padding[0] if padding else tokenizer.eos_token
    tokenizer.pad_token = token
    why = (
        "an unused special token"
        if padding
        else "the tokenizer has no spare token, so its end token"
    )
    return [Resolved(field="model.padToken", value=token, why=why)]


def family(folder: Path, source: str) -> str:
    """The model's `model_type`, such as `llama`.

    Raises:
        TrainerError: UnsupportedModel.
    """
    return _read_config(folder, source).model_type


def tell_padding(model: Model, tokenizer: Tokenizer) -> None:
    """Tell a classifier its pad token: on a decoder, it reads the last token that is another one."""
    if not model.can_generate():
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def load_config(folder: Path, source: str, head: Head = CAUSAL) -> ModelConfig:
    """The model's configuration, if transformers has this head for it.

    Raises:
        TrainerError: UnsupportedModel.
    """
    config = _read_config(folder, source)
    known = head.architectures(config.model_type)
    declared = json.loads((folder / CONFIG).read_text("utf-8")).get("architectures") or list(known)
    # A head that generates cannot start fresh, so the base must have it.
    if not known or (not head.fresh and not set(known) & set(declared)):
        named = ", ".join(declared) or config.model_type
        message = f"{source}/{CONFIG}: {named} is not {head.words} that is known here"
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message)
    return config


def _read_config(folder: Path, source: str) -> ModelConfig:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        message = f"{source}/{CONFIG}: {_brief(error)}"
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message) from error


def position_limit(config: ModelConfig) -> int | None:
    """Positions that the model was made for, or None if it names none."""
    text = config.get_text_config()
    limits = [getattr(text, name, None) for name in _LIMITS]
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of the weights on disk, by the first floating-point tensor."""
    with safe_open(weight_files(folder)[0], framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            dtype = file.get_tensor(name).dtype
            if dtype.is_floating_point:
                return dtype
    return torch.float32


def check_weights(folder: Path, source: str) -> None:
    """Open the header of every weight file.

    Raises:
        TrainerError: CorruptModel naming the file.
    """
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            message = f"{source}/{path.name}: {_brief(error)}"
            raise TrainerError(Reason.CORRUPT_MODEL, message) from None


def load_model(
    source: ModelSource,
    config: ModelConfig,
    precision: str,
    device: str,
    head: Head = CAUSAL,
    packed: Foreign = None,
) -> Model:
    """The model with its weights, adapters of earlier jobs merged in.

    They are merged in the dtype that the base is stored in, so that the sum is the same model
    whatever precision it is loaded in.

    Args:
        source: Where its files are.
        config: From `load_config`.
        precision: `Float32` or `BFloat16`: the dtype of the weights.
        device: `cpu` or `cuda`.
        head: Which head it carries; one that may be fresh is made if the base has none.
        packed: transformers' configuration of a quantised model, for a source without adapters.

    Raises:
        TrainerError: CorruptModel if tensors are missing or have other shapes.
    """
    wanted = DTYPES[precision]
    if source.adapters:
        return _cast(load_merged(source, config, head), wanted).to(device)
    if packed is None:
        return _load_whole(source, config, wanted, head).to(device)
    # bitsandbytes packs weights on the way to their device.
    place = {"quantization_config": packed, "device_map": {"": device}}
    return _load_whole(source, config, wanted, head, **place)


def load_merged(source: ModelSource, config: ModelConfig, head: Head) -> Model:
    """The model in the dtype that it is stored in, on the CPU, adapters of earlier jobs merged in.

    Raises:
        TrainerError: As `load_model`.
    """
    model = _load_whole(source, config, stored_dtype(source.folder), head)
    for folder in source.adapters:
        model = merge.merge(model, folder, source.uri)
    return model


def _cast(model: Model, dtype: torch.dtype) -> Model:
    # Parameters alone: some buffers, such as those of rotary embeddings, must keep their float32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


def _load_whole(
    source: ModelSource, config: ModelConfig, dtype: torch.dtype, head: Head, **place: Foreign
) -> Model:
    check_weights(source.folder, source.uri)
    try:
        with zero.undivided():
            model, info = head.loader.from_pretrained(
                source.folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=bool(head.fresh),
                **place,
            )
    except (RuntimeError, ValueError, OSError, SafetensorError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise
        message = f"{source.uri}: the weights cannot be loaded: {_brief(error)}"
        raise TrainerError(Reason.CORRUPT_MODEL, message) from error
    _refuse_missing(info, source.uri, head)
    # The cache of keys and values is for generation.
    model.config.use_cache = False
    return model


def outline(config: ModelConfig, head: Head = CAUSAL) -> Model:
    """The model on torch's `meta` device: shapes and modules without values or memory."""
    with on_meta():
        return head.loader.from_config(config)


def on_meta() -> torch.device:
    """A context in which new tensors have shapes alone."""
    return torch.device("meta")


def check_vocabulary(tokenizer: Tokenizer, model: Model, source: str) -> None:
    """See that every token has an embedding.

    Raises:
        TrainerError: UnsupportedModel.
    """
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        message = (
            f"{source}: the tokenizer has {len(tokenizer)} tokens, the model {rows} embeddings"
        )
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message)


def _refuse_missing(info: dict[str, Any], source: str, head: Head) -> None:
    # Of a tensor of another shape: its name, the shape that is stored, the shape that is needed.
    misshapen = {
        name: f"{name} {list(stored)} in place of {list(needed)}"
        for name, stored, needed in info.get("mismatched_keys") or ()
    }
    found = {name: name for name in info.get("missing_keys") or ()} | misshapen
    absent = [found[name] for name in sorted(found) if not _is_fresh(name, head)]
    if absent:
        names = ", ".join(absent[:3])
        message = f"{source}: {len(absent)} tensors are missing or misshapen: {names}"
        raise TrainerError(Reason.CORRUPT_MODEL, message)


def _is_fresh(key: str, head: Head) -> bool:
    return any(f".{part}" in f".{key}" for part in head.fresh)


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]
