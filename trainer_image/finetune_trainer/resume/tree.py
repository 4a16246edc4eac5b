"""Nested values with tensors in them as two files: NAME.json and NAME.safetensors.

Used for everything in a checkpoint. Optimisers and schedules give nested dictionaries, lists and
tuples; all come back as they were, numbers bit for bit.
"""

import json
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.sharded import whole

Tree: TypeAlias = Any
"""Dictionaries, lists, tuples, tensors, numbers, strings, booleans and None, one within the other."""
# A container is a JSON object with one member, whose name tells what it was.
_DICT, _LIST, _TUPLE, _TENSOR = "dict", "list", "tuple", "tensor"


def write(folder: Path | None, name: str, value: Tree) -> None:
    """Store a value.

    Args:
        folder: Where to; is made if it is not there. None where another process writes, and this one
            has but to hand over its parts of tensors.
        name: Of both files; the second is left out if there is no tensor.
        value: Of dictionaries, lists, tuples, tensors, numbers, strings, booleans and None.

    Raises:
        TypeError: There is something else in it.
    """
    tensors: dict[str, torch.Tensor] = {}
    outline = _taken_apart(value, tensors, keep=folder is not None)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(outline), "utf-8")
    if tensors:
        save_file(tensors, folder / f"{name}.safetensors")


def read(folder: Path, name: str) -> Tree:
    """The value that was stored; its tensors are on the CPU."""
    path = folder / f"{name}.safetensors"
    tensors = load_file(path) if path.exists() else {}
    return _put_together(json.loads((folder / f"{name}.json").read_text("utf-8")), tensors)


def _taken_apart(value: Tree, tensors: dict[str, torch.Tensor], *, keep: bool) -> Tree:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        key = str(len(tensors))
        found = whole(value)
        tensors[key] = found.cpu().contiguous() if keep else torch.empty(0)
        return {_TENSOR: key}
    if isinstance(value, dict):
        pairs = value.items()
        return {
            _DICT: [[_taken_apart(part, tensors, keep=keep) for part in pair] for pair in pairs]
        }
    if isinstance(value, list | tuple):
        kind = _LIST if isinstance(value, list) else _TUPLE
        return {kind: [_taken_apart(each, tensors, keep=keep) for each in value]}
    raise TypeError(f"a {type(value).__name__} cannot be stored in a checkpoint")


def _put_together(outline: Tree, tensors: dict[str, torch.Tensor]) -> Tree:
    if not isinstance(outline, dict):
        return outline
    ((kind, content),) = outline.items()
    if kind == _TENSOR:
        return tensors[content]
    parts = [_put_together(each, tensors) for each in content] if kind != _DICT else []
    if kind == _DICT:
        return {_put_together(k, tensors): _put_together(v, tensors) for k, v in content}
    return parts if kind == _LIST else tuple(parts)
