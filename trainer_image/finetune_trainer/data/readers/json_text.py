"""Strict JSON: what the standard leaves open or forbids is refused with its place.

Used by the readers of JSON. Python's parser takes NaN, lets the last of two equal keys win, and makes
strings that cannot be written; none of these is what a person meant.
"""

import json
import re
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.readers.row import invalid, kind
from finetune_trainer.errors import TrainerError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _RefusedError(Exception):
    """Something that Python's parser would take."""


def parse(text: str, where: str) -> object:
    """The value of a JSON text.

    Raises:
        TrainerError: DataInvalid naming the place.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise invalid(where, _what(error)) from None
    except _RefusedError as error:
        raise invalid(where, str(error)) from None
    except RecursionError:
        raise invalid(where, "nested too deeply") from None
    except ValueError:
        # Python bounds the digits of a whole number.
        raise invalid(where, "a number has too many digits") from None
    if _SURROGATE.search(text):
        _refuse_halves(value, where)
    return value


def object_of(value: object, where: str) -> dict[str, Any]:
    """A value that must be an object.

    Raises:
        TrainerError: DataInvalid naming the place.
    """
    if not isinstance(value, dict):
        raise TrainerError(Reason.DATA_INVALID, f"{where}: expected an object, found {kind(value)}")
    return value


def _what(error: json.JSONDecodeError) -> str:
    place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
    return f"not valid JSON: {error.msg} ({place})"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RefusedError(f"the key {twice[:80]!r} stands twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise _RefusedError(f"{name} is not a JSON number")


def _refuse_halves(value: object, where: str) -> None:
    # Half of a surrogate pair is no character; it can be neither tokenized nor written.
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise invalid(where, "half of a surrogate pair (\\ud800 to \\udfff) in a string") from None


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
