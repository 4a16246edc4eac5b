"""Which files of a model are needed, and what can be refused by looking at their names and at JSON.

Used by `sources` on the listing, before anything big is downloaded, and by `model` on the local
folder. Weights are safetensors or nothing; a model's own code is never fetched, let alone run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Source, StoredFile

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SIDE_FILES = (".json", ".txt", ".model", ".jinja", ".tiktoken")


def choose(place: Source, listing: Sequence[StoredFile]) -> tuple[StoredFile, ...]:
    """The files to fetch, after all checks that the listing and the index allow.

    Raises:
        TrainerError: RemoteCodeRefused, UnsafeWeights, CorruptModel or UnsupportedModel.
    """
    files = {file.name: file for file in listing if "/" not in file.name}
    _refuse_code(place.uri, listing)
    if CONFIG not in files:
        raise TrainerError(Reason.UNSUPPORTED_MODEL, _without_config(place.uri, set(files)))
    _check_config(place.uri, _json(place, CONFIG))
    weights = _weights(place, files)
    if not any(name in files for name in _TOKENIZERS):
        message = f"{place.uri}: there is no tokenizer; expected one of {', '.join(_TOKENIZERS)}"
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message)
    if "tokenizer_config.json" in files:
        _refuse_auto_map(place.uri, "tokenizer_config.json", _json(place, "tokenizer_config.json"))
    return _with_side_files(files, weights)


def choose_adapter(place: Source, listing: Sequence[StoredFile]) -> tuple[StoredFile, ...]:
    """The files of an adapter to fetch: weights, configuration, tokenizer.

    Raises:
        TrainerError: RemoteCodeRefused, UnsafeWeights, CorruptModel or UnsupportedModel.
    """
    files = {file.name: file for file in listing if "/" not in file.name}
    _refuse_code(place.uri, listing)
    if ADAPTER_CONFIG not in files:
        message = f"{place.uri} holds neither a model ({CONFIG}) nor an adapter ({ADAPTER_CONFIG})"
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message)
    if ADAPTER not in files:
        _refuse_pickles(place.uri, files)
        message = f"{place.uri}: there is no {ADAPTER}"
        raise TrainerError(Reason.CORRUPT_MODEL, message)
    config = _json(place, ADAPTER_CONFIG)
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        message = f"{place.uri}/{ADAPTER_CONFIG} has no `peft_type`"
        raise TrainerError(Reason.CORRUPT_MODEL, message)
    return _with_side_files(files, [files[ADAPTER]])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a local model that `choose` has passed."""
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text("utf-8"))
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    return [folder / SINGLE]


def _with_side_files(
    files: dict[str, StoredFile], weights: Sequence[StoredFile]
) -> tuple[StoredFile, ...]:
    side = {file for name, file in files.items() if name.endswith(_SIDE_FILES)}
    return tuple(sorted(side | set(weights), key=lambda file: file.name))


def _weights(place: Source, files: dict[str, StoredFile]) -> list[StoredFile]:
    if INDEX in files:
        names = _shards(place)
        absent = sorted(names - set(files))
        if absent:
            message = f"{place.uri}/{INDEX} names {', '.join(absent[:3])}, which is not there"
            raise TrainerError(Reason.CORRUPT_MODEL, message)
        return [files[name] for name in names]
    if SINGLE in files:
        return [files[SINGLE]]
    _refuse_pickles(place.uri, files)
    message = f"{place.uri}: there are no weights; expected {SINGLE} or {INDEX}"
    raise TrainerError(Reason.CORRUPT_MODEL, message)


def _refuse_pickles(uri: str, files: dict[str, StoredFile]) -> None:
    pickled = sorted(name for name in files if name.endswith(_PICKLED))
    if pickled:
        message = f"{uri}: the weights are pickled ({', '.join(pickled[:3])})"
        raise TrainerError(Reason.UNSAFE_WEIGHTS, message)


def _shards(place: Source) -> set[str]:
    index = _json(place, INDEX)
    named = index.get("weight_map") if isinstance(index, dict) else None
    names = set(named.values()) if isinstance(named, dict) and named else set()
    good = {name for name in names if isinstance(name, str) and name.endswith(".safetensors")}
    if not good or names != good:
        message = f"{place.uri}/{INDEX}: `weight_map` does not name safetensors files"
        raise TrainerError(Reason.CORRUPT_MODEL, message)
    return good


def _refuse_code(uri: str, listing: Sequence[StoredFile]) -> None:
    code = [file.name for file in listing if file.name.endswith(".py")]
    if code:
        message = f"{uri} holds code ({', '.join(sorted(code)[:3])}), which is never run"
        hint = "Remove the file if transformers has this architecture; otherwise it cannot be used."
        raise TrainerError(Reason.REMOTE_CODE_REFUSED, message, hint)


def _check_config(uri: str, config: object) -> None:
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        message = f"{uri}/{CONFIG} has no `model_type`"
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message)
    _refuse_auto_map(uri, CONFIG, config)
    for key, value in config.items():
        # `attn_implementation: org/name` would load a kernel from the hub.
        if key.endswith("_implementation") and "/" in str(value):
            message = f"{uri}/{CONFIG}: `{key}` asks for the foreign code {value}"
            raise TrainerError(Reason.REMOTE_CODE_REFUSED, message)
    if config.get("quantization_config"):
        message = f"{uri}/{CONFIG}: the weights are quantized (`quantization_config`)"
        hint = "Use the model with plain bfloat16 or float32 weights."
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message, hint)


def _refuse_auto_map(uri: str, name: str, document: object) -> None:
    if isinstance(document, dict) and document.get("auto_map"):
        message = f"{uri}/{name}: `auto_map` asks to run the model's own code"
        raise TrainerError(Reason.REMOTE_CODE_REFUSED, message)


def _without_config(uri: str, names: set[str]) -> str:
    if ADAPTER_CONFIG in names:
        return f"{uri} is an adapter without a manifest of ours, which would name its base model"
    return f"{uri}: there is no {CONFIG}; does the URI point to the model's folder?"


def _json(place: Source, name: str) -> Any:  # noqa: ANN401 - JSON, told apart by its callers
    try:
        return json.loads(place.read(name) or b"")
    except ValueError as error:
        message = f"{place.uri}/{name}: not valid JSON: {error}"
        raise TrainerError(Reason.CORRUPT_MODEL, message) from None
