"""The operator's settings: the chart writes them, the operator's own class takes them."""

import json
import re
from typing import Any

import pytest

from finetune_operator.settings import Settings
from support.chart import CHART, operator_environment, render

PREFIX = "FINETUNE_OPERATOR_"
FULL = CHART / "ci/full-values.yaml"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "enum")


def test_defaults_leave_empty_settings_out() -> None:
    assert operator_environment(render()) == {
        PREFIX + "TRAINER_IMAGE": "finetune-trainer:0.1.0",
        PREFIX + "TRAINER_IMAGE_PULL_POLICY": "IfNotPresent",
        PREFIX + "STORAGE_CHECKSUMS": "WhenSupported",
        PREFIX + "WORKERS": "16",
        PREFIX + "STATUS_INTERVAL_SECONDS": "10",
        PREFIX + "PROGRESS_INTERVAL_SECONDS": "5",
        PREFIX + "RESYNC_SECONDS": "300",
        PREFIX + "HEALTH_PORT": "8080",
        PREFIX + "LOG_FORMAT": "json",
        PREFIX + "LOG_LEVEL": "INFO",
    }


def test_every_setting_of_the_operator_has_a_value() -> None:
    rendered = operator_environment(render({"watchNamespaces": ["team-a", "team-b"]}, files=[FULL]))
    assert rendered == {
        PREFIX + "TRAINER_IMAGE": "registry.example.com/team/trainer:0.1.0-cu130",
        PREFIX + "TRAINER_IMAGE_PULL_POLICY": "Always",
        PREFIX + "TRAINER_IMAGE_PULL_SECRETS": "registry,mirror",
        PREFIX + "NAMESPACES": "team-a,team-b",
        PREFIX + "HUB_ENDPOINT": "https://hub.example.com/mirror",
        PREFIX + "STORAGE_ENDPOINT": "https://s3.example.com:8333",
        PREFIX + "STORAGE_REGION": "eu-central-1",
        PREFIX + "STORAGE_CREDENTIALS_SECRET": "team-storage",
        PREFIX + "STORAGE_CHECKSUMS": "WhenRequired",
        PREFIX + "WORKERS": "4",
        PREFIX + "STATUS_INTERVAL_SECONDS": "2.5",
        PREFIX + "PROGRESS_INTERVAL_SECONDS": "1",
        PREFIX + "RESYNC_SECONDS": "60",
        PREFIX + "HEALTH_PORT": "9090",
        PREFIX + "LOG_FORMAT": "console",
        PREFIX + "LOG_LEVEL": "DEBUG",
    }
    assert set(rendered) == {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("files", [[], [FULL]], ids=["defaults", "full"])
def test_the_operator_takes_the_settings(files: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = operator_environment(render(files=files))
    for name, value in rendered.items():
        monkeypatch.setenv(name, value)
    taken = Settings().model_dump(mode="json")
    for name, value in rendered.items():
        assert value == as_text(taken[name.removeprefix(PREFIX).lower()])


def as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("key", SCHEMA["properties"]["operator"]["properties"])
def test_values_and_settings_have_the_same_bounds(key: str) -> None:
    chart = SCHEMA["properties"]["operator"]["properties"][key]
    name = re.sub("([A-Z])", r"_\1", key).lower()
    setting = Settings.model_json_schema()["properties"][name]
    assert any(bound in chart for bound in BOUNDS)
    for bound in BOUNDS:
        # The operator's user may not open ports below 1024.
        if (key, bound) != ("healthPort", "minimum"):
            assert chart.get(bound) == setting.get(bound)
