"""Reading rows from JSON Lines and JSON files.

Used by `data.load`. Every row keeps its origin (file and line), so that every later complaint can
name it. Nothing is skipped: a line that cannot be read ends the run.
"""

import codecs
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.inputs import DataFile

_FOREIGN = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True)
class Row:
    """One row as it was read.

    Attributes:
        columns: The JSON object.
        origin: File and line, for messages.
    """

    columns: dict[str, Any]
    origin: str


def read_rows(files: Sequence[DataFile]) -> list[Row]:
    """All rows of the files, in order.

    Raises:
        TrainerError: DataInvalid naming file and line; DataEmpty naming the file.
    """
    rows = []
    for file in files:
        found = list(_rows(file))
        if not found:
            raise TrainerError(Reason.DATA_EMPTY, f"{file.name} has no rows")
        rows += found
    return rows


def _rows(file: DataFile) -> Iterator[Row]:
    content = file.path.read_bytes()
    _refuse_encoding(file.name, content)
    content = content.removeprefix(codecs.BOM_UTF8)
    return _lines(file.name, content) if _is_lines(file.name) else _items(file.name, content)


def _is_lines(name: str) -> bool:
    return name.lower().endswith(".jsonl")


def _lines(name: str, content: bytes) -> Iterator[Row]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            origin = f"{name} line {number}"
            yield Row(_object(_parse(line, origin), origin), origin)


def _items(name: str, content: bytes) -> Iterator[Row]:
    if not content.strip():
        return
    items = _parse(content, name)
    if not isinstance(items, list):
        message = f"{name}: expected a list of objects, found {_kind(items)}"
        raise TrainerError(Reason.DATA_INVALID, message, "One object a line goes into .jsonl.")
    for number, item in enumerate(items, start=1):
        origin = f"{name} item {number}"
        yield Row(_object(item, origin), origin)


def _parse(text: bytes, origin: str) -> object:
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"{origin}: not UTF-8 (byte {error.start + 1} is 0x{text[error.start]:02x})"
        hint = "Save the file as UTF-8."
        raise TrainerError(Reason.DATA_INVALID, message, hint) from None
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        message = f"{origin}: not valid JSON: {error.msg} ({where})"
        raise TrainerError(Reason.DATA_INVALID, message) from None
    except RecursionError:
        message = f"{origin}: nested too deeply"
        raise TrainerError(Reason.DATA_INVALID, message) from None


def _object(value: object, origin: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        message = f"{origin}: expected an object, found {_kind(value)}"
        raise TrainerError(Reason.DATA_INVALID, message)
    return value


def _refuse_encoding(name: str, content: bytes) -> None:
    for mark, encoding in _FOREIGN.items():
        if content.startswith(mark):
            message = f"{name} line 1: the file is {encoding}; expected UTF-8"
            raise TrainerError(Reason.DATA_INVALID, message, "Save the file as UTF-8.")
    # UTF-16 without a mark has a zero byte beside every ASCII letter.
    if b"\x00" in content[:64]:
        message = f"{name} line 1: zero bytes in the text, as in UTF-16; expected UTF-8"
        raise TrainerError(Reason.DATA_INVALID, message, "Save the file as UTF-8.")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")
