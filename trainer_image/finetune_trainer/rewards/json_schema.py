"""JSON Schema for hostile documents: no references abroad, no unbounded patterns, no deep recursion.

Used by `functions.JSONSchema`. A schema that asks for what cannot be bounded is refused when the job is
planned, never while it trains.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.rewards import patterns

MAX_DEPTH = 64
# Comparing items with each other takes time by the square of their number.
MAX_ITEMS = 2000
_REFERENCES = ("$ref", "$dynamicRef")
# Names that would give a part of the schema an address of its own.
_ADDRESSES = ("$id", "$anchor", "$dynamicAnchor")


def check(schema: str, where: str) -> None:
    """See that a schema can be used.

    Raises:
        TrainerError: InvalidSpec naming the field `where`.
    """
    try:
        document = json.loads(schema)
        Draft202012Validator.check_schema(document)
    except (ValueError, RecursionError) as error:
        raise _invalid(where, f"this is not JSON: {error}") from None
    except SchemaError as error:
        raise _invalid(where, f"this is not a JSON Schema (2020-12): {error.message}") from None
    for part in _parts(document):
        _check_part(part, document, where)


def valid(schema: str | None, text: str) -> bool:
    """Whether a text is one JSON document that obeys the schema; without a schema, any document."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
        if not _bounded(document):
            return False
        return schema is None or _validator(schema).is_valid(document)
    except (ValueError, RecursionError, OverflowError):
        # ValueError: not JSON, or a number of thousands of digits.
        return False


def _bounded(document: object) -> bool:
    # Breadth first, so that the check itself needs no recursion.
    level, count = [document], 0
    for _ in range(MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
        count += len(level)
        if not level or count > MAX_ITEMS:
            break
    return not level


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _parts(document: object) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        yield document
    for child in _children(document):
        yield from _parts(child)


def _check_part(part: dict[str, Any], document: object, where: str) -> None:
    # A property may bear the name of a keyword; its value is a schema then, and no string.
    for name in _REFERENCES:
        if isinstance(part.get(name), str):
            _check_reference(part[name], document, where)
    for name in _ADDRESSES:
        if isinstance(part.get(name), str):
            raise _invalid(where, f"`{name}` is not read here; refer to parts by `#/...`")
    if isinstance(part.get("patternProperties"), dict):
        # The library matches these by `re`, without a limit.
        raise _invalid(where, "`patternProperties` is not read here; use `propertyNames`")
    if isinstance(part.get("pattern"), str):
        patterns.check(part["pattern"], f"{where} (pattern)")


def _check_reference(target: str, document: object, where: str) -> None:
    if not target.startswith("#"):
        raise _invalid(where, f"{target!r} leaves the document; only `#...` is read")
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    try:
        Registry().with_resource("", resource).resolver().lookup(target)
    except Unresolvable:
        raise _invalid(where, f"the reference {target!r} leads nowhere") from None


def _invalid(where: str, what: str) -> TrainerError:
    return TrainerError(Reason.INVALID_SPEC, f"`{where}`: {what}"[:1500])


def _pattern(
    _validator: object, pattern: str, value: object, _schema: object
) -> Iterator[ValidationError]:
    if isinstance(value, str) and patterns.find(pattern, value) is None:
        yield ValidationError(f"{value[:50]!r} does not match {pattern!r}")


_Bounded: Any = extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]


@lru_cache(maxsize=16)
def _validator(schema: str) -> Draft202012Validator:
    # An empty registry: the default one fetches references from the network.
    validator: Draft202012Validator = _Bounded(json.loads(schema), registry=Registry())
    return validator


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
