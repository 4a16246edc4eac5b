"""The values: documented, closed to unknown keys, and refused when they are wrong."""

import json
import subprocess
import sys
from typing import Any

import pytest
from ruamel.yaml import YAML

from support.chart import CHART, HelmError, helm, render

CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
DEFAULTS = YAML(typ="safe", pure=True).load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_generated_files_are_up_to_date() -> None:
    script = CHART.parent / "generate.py"
    done = subprocess.run(
        [sys.executable, "-P", script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", CI_VALUES, ids=lambda file: file.stem)
def test_lint_is_clean(file: Any) -> None:
    printed = helm("lint", "--strict", CHART, "-f", file)
    assert "0 chart(s) failed" in printed
    assert "[WARNING]" not in printed


def open_objects(schema: dict[str, Any], defaults: Any, path: str = "") -> list[str]:
    """Paths of groups that would take an unknown key, and of defaults the schema does not know."""
    if not isinstance(defaults, dict) or "properties" not in schema:
        return []
    found = [] if schema.get("additionalProperties") is False else [path]
    for key, value in defaults.items():
        child = schema["properties"].get(key)
        here = f"{path}.{key}"
        found += [here] if child is None else open_objects(child, value, here)
    return found


def test_schema_knows_every_key_and_is_closed() -> None:
    assert open_objects(SCHEMA, DEFAULTS) == []


def test_open_groups_are_maps_of_kubernetes_alone() -> None:
    free = {key for key, each in SCHEMA["properties"].items() if is_open(each)}
    maps = {"global", "resources", "nodeSelector", "affinity", "podAnnotations", "podLabels"}
    assert free == maps


def is_open(schema: dict[str, Any]) -> bool:
    return schema["type"] == "object" and schema.get("additionalProperties") is not False


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"imgae": {}}, "imgae"),
        ({"image": {"tagg": "1"}}, "tagg"),
        ({"trainer": {"image": {"digset": ""}}}, "digset"),
        ({"operator": {"worker": 3}}, "worker"),
        ({"image": {"digest": "sha256:short"}}, "/image/digest"),
        ({"image": {"tag": 1.0}}, "/image/tag"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"operator": {"logFormat": "xml"}}, "/operator/logFormat"),
        ({"operator": {"workers": 0}}, "/operator/workers"),
        ({"operator": {"resyncSeconds": 0}}, "/operator/resyncSeconds"),
        ({"storage": {"endpoint": "s3.example.com"}}, "/storage/endpoint"),
        ({"hub": {"endpoint": "hub.example.com"}}, "/hub/endpoint"),
        ({"hub": {"endpoint": "https://user:secret@hub.example.com"}}, "/hub/endpoint"),
        ({"watchNamespaces": ["Team_A"]}, "/watchNamespaces/0"),
        ({"watchNamespaces": ["team", "team"]}, "/watchNamespaces"),
        ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0"),
    ],
    ids=json.dumps,
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HelmError) as refused:
        render(values)
    assert "values don't meet the specifications of the schema" in str(refused.value)
    assert complaint in str(refused.value)
