"""From pydantic's JSON Schema to the structural schema that the API server takes.

Called by `finetune_api.crd`. pydantic speaks JSON Schema 2020-12; a custom resource definition
takes a subset of OpenAPI 3.0 in which references, null unions, constants and numeric exclusive
bounds are refused, and `additionalProperties: false` cannot stand beside `properties` (the API
server drops unknown fields, and refuses them under strict validation, by itself).
"""

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

# What is copied as it stands. All else is either converted below or an error: a keyword that is
# dropped in silence would be a rule that only the laptop knows.
_COPIED = (
    "type",
    "description",
    "default",
    "enum",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "minimum",
    "maximum",
    "required",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)
_DROPPED = ("title", "propertyNames")
_CONVERTED = (
    "$ref",
    "anyOf",
    "allOf",
    "const",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "properties",
    "items",
    "additionalProperties",
    "patternProperties",
    "x-kubernetes-validations",
    "x-kubernetes-int-or-string",
)


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model.

    Raises:
        ValueError: The model uses a JSON Schema keyword that has no structural counterpart.
    """
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(document, document.get("$defs", {}))


def _convert(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    schema = _without_null(_inline(schema, definitions), definitions)
    unknown = schema.keys() - {*_COPIED, *_DROPPED, *_CONVERTED, "$defs"}
    if unknown:
        raise ValueError(f"no structural counterpart of {sorted(unknown)} in {schema}")
    if schema.get("x-kubernetes-int-or-string"):
        return _int_or_string(schema)
    if "anyOf" in schema or "allOf" in schema:
        raise ValueError(f"a union of types has no structural counterpart: {schema}")
    converted = {key: schema[key] for key in _COPIED if key in schema} | _annotations(schema)
    if converted.get("default", ...) is None:
        del converted["default"]
    converted |= _constant(schema) | _bounds(schema) | _children(schema, definitions)
    return converted | _validations(schema)


def _inline(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Replace a reference by its target; what stands beside the reference wins, rules add up."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    target = _inline(definitions[reference.rpartition("/")[2]], definitions)
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    rules = [
        *target.get("x-kubernetes-validations", ()),
        *beside.get("x-kubernetes-validations", ()),
    ]
    merged = target | beside
    return merged | {"x-kubernetes-validations": rules} if rules else merged


def _without_null(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """`anyOf: [X, null]` is an optional X: absence is how Kubernetes says null."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    beside = {key: value for key, value in schema.items() if key != "anyOf"}
    only = _without_null(_inline(options[0], definitions), definitions)
    rules = [*only.get("x-kubernetes-validations", ()), *beside.get("x-kubernetes-validations", ())]
    merged = only | beside
    return merged | {"x-kubernetes-validations": rules} if rules else merged


def _int_or_string(schema: Schema) -> Schema:
    return _annotations(schema) | {"x-kubernetes-int-or-string": True} | _validations(schema)


def _annotations(schema: Schema) -> Schema:
    """Description on one line, and the default without its absent fields."""
    annotations: Schema = {}
    if "description" in schema:
        annotations["description"] = " ".join(schema["description"].split())
    if "default" in schema:
        annotations["default"] = _present(schema["default"])
    return annotations


def _present(default: object) -> object:
    if isinstance(default, list):
        return [_present(item) for item in default]
    if isinstance(default, dict):
        return {key: _present(value) for key, value in default.items() if value is not None}
    return default


def _constant(schema: Schema) -> Schema:
    return {"enum": [schema["const"]]} if "const" in schema else {}


def _bounds(schema: Schema) -> Schema:
    """OpenAPI 3.0 marks a bound as exclusive by a flag beside it."""
    bounds: Schema = {}
    for end in ("Minimum", "Maximum"):
        if f"exclusive{end}" in schema:
            bounds |= {end.lower(): schema[f"exclusive{end}"], f"exclusive{end}": True}
    return bounds


def _children(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    children: Schema = {}
    if "properties" in schema:
        children["properties"] = {
            name: _convert(child, definitions) for name, child in schema["properties"].items()
        }
    if "items" in schema:
        children["items"] = _convert(schema["items"], definitions)
    return children | _map_values(schema, definitions)


def _map_values(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Values of a map. Free-form maps keep unknown fields; closed models need no word for it."""
    if "patternProperties" in schema:
        (values,) = schema["patternProperties"].values()
        return {"additionalProperties": _convert(values, definitions)}
    values = schema.get("additionalProperties", False)
    if values is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": _convert(values, definitions)} if values else {}


def _validations(schema: Schema) -> Schema:
    rules = schema.get("x-kubernetes-validations")
    return {"x-kubernetes-validations": rules} if rules else {}
