"""JSON files: a list of objects, or (as many hubs name them) one object a line."""

import codecs
from collections.abc import Iterator

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.readers import json_lines
from finetune_trainer.data.readers.json_text import object_of, parse
from finetune_trainer.data.readers.limits import MAX_WHOLE
from finetune_trainer.data.readers.row import Row, kind
from finetune_trainer.data.readers.text import decoded, opened, refuse_encoding, whole
from finetune_trainer.errors import TrainerError


def read(file: DataFile) -> Iterator[Row]:
    """The rows of a file."""
    return json_lines.read(file) if _one_object_a_line(file) else _items(file)


def _one_object_a_line(file: DataFile) -> bool:
    with opened(file) as chunks:
        beginning = next(chunks, b"").removeprefix(codecs.BOM_UTF8).lstrip()
    first, more, _ = beginning.partition(b"\n")
    return first.startswith(b"{") and (not more or first.rstrip().endswith(b"}"))


def _items(file: DataFile) -> Iterator[Row]:
    content = whole(file, MAX_WHOLE)
    refuse_encoding(file.name, content)
    text = decoded(content.removeprefix(codecs.BOM_UTF8), file.name)
    if not text.strip():
        return
    items = parse(text, file.name)
    if not isinstance(items, list):
        message = f"{file.name}: expected a list of objects, found {kind(items)}"
        raise TrainerError(Reason.DATA_INVALID, message, "One object a line goes into .jsonl.")
    for number, item in enumerate(items, start=1):
        origin = f"{file.name} item {number}"
        yield Row(object_of(item, origin), origin)
