"""Makes JSON schemas for kubeconform from the OpenAPI document of an API server.

Used by the chart tests. Like this, no schema comes from the network, and the FineTuneJob's own
schema is judged along with the built-in ones. Unknown fields are refused everywhere.
"""

import json
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
REFERENCE = "#/definitions/"
# Types that the document calls strings, though numbers are fine for them too.
SCALARS = {"type": ["string", "integer", "number"]}
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def write_schemas(openapi: Schema, folder: Path) -> None:
    """Writes one self-contained schema file for each kind, named as kubeconform looks for it."""
    definitions = {name: strict(schema) for name, schema in openapi["definitions"].items()}
    definitions[QUANTITY] = SCALARS
    for name, schema in openapi["definitions"].items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            used = {each: definitions[each] for each in reachable(name, definitions)}
            content = {"$ref": REFERENCE + name, "definitions": used}
            (folder / file_name(**kind)).write_text(json.dumps(content))


def file_name(group: str, version: str, kind: str) -> str:
    """The name that `{{.ResourceKind}}{{.KindSuffix}}.json` stands for.

    >>> file_name("rbac.authorization.k8s.io", "v1", "Role")
    'role-rbac-v1.json'
    """
    parts = [kind, group.split(".")[0], version]
    return "-".join(part for part in parts if part).lower() + ".json"


def strict(schema: Any) -> Any:
    """The schema with objects closed to unknown fields, and int-or-string spelt out."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    # `is True`: the schema of schemas has fields of these names, whose values are schemas.
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string") is True:
        return SCALARS
    result = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and closed(schema):
        result["additionalProperties"] = False
    return result


def closed(schema: Schema) -> bool:
    """Whether the API server would drop or refuse an unknown field here."""
    return schema.get("type") == "object" and not (
        schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    )


def reachable(name: str, definitions: Schema) -> set[str]:
    """The definitions that a definition refers to, itself included."""
    found: set[str] = set()
    todo = [name]
    while todo:
        if (current := todo.pop()) not in found:
            found.add(current)
            todo += references(definitions[current])
    return found


def references(schema: Any) -> list[str]:
    """The definitions that a schema names directly."""
    if isinstance(schema, dict):
        own = schema.get("$ref")
        named = [own.removeprefix(REFERENCE)] if isinstance(own, str) else []
        return named + [each for value in schema.values() for each in references(value)]
    return (
        [each for value in schema for each in references(value)] if isinstance(schema, list) else []
    )
