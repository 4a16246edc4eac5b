"""The converter: every JSON Schema construct that the models use, and refusal of what they do not."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from finetune_api.__main__ import generated
from finetune_api.crd import definition, to_yaml
from finetune_api.meta import IMMUTABLE, ApiModel, AutoOrCount, Kubernetes, Rule
from finetune_api.schema import structural


class Leaf(ApiModel):
    """A leaf."""

    rules = (Rule("self.size > 0", "positive"),)
    size: int = 1


class Tree(ApiModel):
    leaf: Annotated[Leaf, IMMUTABLE] = Leaf()
    """Described
    on two lines."""
    maybe: Leaf | None = None
    one: Literal["A"] = "A"
    some: Literal["A", "B"] | None = None
    above: Annotated[float, Field(gt=0, le=2)] = 1
    length: AutoOrCount = "Auto"
    names: Annotated[list[str], Field(max_length=3), Kubernetes("set")] = []
    labels: (
        Annotated[dict[str, Annotated[str, Field(max_length=9)]], Field(max_length=4)] | None
    ) = None
    free: dict[str, object] | None = None


def field(name: str) -> dict[str, object]:
    return structural(Tree)["properties"][name]


def test_references_are_inlined_with_the_rules_of_both_places() -> None:
    leaf = field("leaf")
    assert leaf["properties"] == {"size": {"type": "integer", "default": 1}}
    assert [rule["rule"] for rule in leaf["x-kubernetes-validations"]] == [
        "self.size > 0",
        "self == oldSelf",
    ]
    assert leaf["default"] == {"size": 1}


def test_descriptions_are_one_line() -> None:
    assert field("leaf")["description"] == "Described on two lines."


def test_null_is_absence() -> None:
    assert field("maybe")["type"] == "object"
    assert "default" not in field("maybe")
    assert field("some") == {"type": "string", "enum": ["A", "B"]}


def test_constants_are_enumerations_of_one() -> None:
    assert field("one") == {"type": "string", "default": "A", "enum": ["A"]}


def test_exclusive_bounds_are_flags() -> None:
    assert field("above") == {
        "type": "number", "default": 1, "minimum": 0, "exclusiveMinimum": True, "maximum": 2,
    }  # fmt: skip


def test_auto_or_a_number_is_int_or_string() -> None:
    assert field("length")["x-kubernetes-int-or-string"] is True
    assert "type" not in field("length")


def test_lists_and_maps() -> None:
    assert field("names")["x-kubernetes-list-type"] == "set"
    assert field("labels")["additionalProperties"] == {"type": "string", "maxLength": 9}
    assert field("free")["x-kubernetes-preserve-unknown-fields"] is True


def test_closed_models_have_no_word_beside_their_properties() -> None:
    assert "additionalProperties" not in structural(Tree)


def test_what_has_no_counterpart_is_an_error() -> None:
    class Union(ApiModel):
        value: int | str = 1

    with pytest.raises(ValueError, match="no structural counterpart"):
        structural(Union)


def test_the_definition_is_small_enough_for_plain_apply() -> None:
    # kubectl apply keeps a copy in an annotation, whose limit is 256 KiB; our own goal is half of it.
    assert len(to_yaml(definition()).encode()) < 128_000


def test_generated_files_are_what_the_types_say() -> None:
    from finetune_api.__main__ import ROOT

    stale = [path for path, text in generated().items() if (ROOT / path).read_text() != text]
    assert stale == []


def test_every_string_and_list_is_bounded() -> None:
    unbounded = list(_unbounded("spec", _schema()["spec"])) + list(
        _unbounded("status", _schema()["status"])
    )
    assert unbounded == []


def _schema() -> dict[str, dict]:
    return definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]


def _unbounded(path: str, schema: dict):
    if schema.get("type") == "string" and not schema.keys() & {"maxLength", "enum"}:
        yield path
    if schema.get("type") == "array" and "maxItems" not in schema:
        yield path
    for name, child in schema.get("properties", {}).items():
        yield from _unbounded(f"{path}.{name}", child)
    for word in ("items", "additionalProperties"):
        if word in schema:
            yield from _unbounded(f"{path}[]", schema[word])
