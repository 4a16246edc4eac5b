"""Settings and the command line: errors for people, help that lists everything."""

import os
from pathlib import Path

import pytest

from finetune_operator import __main__, settings
from finetune_operator.settings import PREFIX, Settings, SettingsError

IMAGE = {"TRAINER_IMAGE": "registry.example/trainer:1"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in {**IMAGE, **variables}.items():
        monkeypatch.setenv(PREFIX + name, value)
    return settings.load()


def test_the_image_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(monkeypatch)
    assert found.namespace_names == ()
    assert (found.workers, found.resync_seconds, found.health_port) == (16, 300, 8080)
    assert found.installation.endpoint is None


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(monkeypatch, NAMESPACES="a, b,", TRAINER_IMAGE_PULL_SECRETS="x.y,z")
    assert found.namespace_names == ("a", "b")
    assert found.installation.image_pull_secrets == ("x.y", "z")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(monkeypatch, STORAGE_ENDPOINT="", WORKERS="", STORAGE_CHECKSUMS="")
    assert (found.storage_endpoint, found.workers, found.storage_checksums) == (None, 16, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "0"), ("WORKERS", "many"), ("HEALTH_PORT", "70000"), ("LOG_FORMAT", "xml"),
        ("NAMESPACES", "a b"), ("NAMESPACES", "../x"), ("STORAGE_CHECKSUMS", "Never"),
        ("TRAINER_IMAGE_PULL_POLICY", "Sometimes"), ("STATUS_INTERVAL_SECONDS", "0"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=PREFIX + name):
        load(monkeypatch, **{name: value})


def test_a_missing_setting_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert __main__.run([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{PREFIX}TRAINER_IMAGE: is not set" in said


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.run(["--help"]) == 0
    said = capsys.readouterr().out
    for name in Settings.model_fields:
        assert PREFIX + name.upper() in said
    assert "None" not in said


def test_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.run(["run"]) == 2
    assert "takes no arguments" in capsys.readouterr().err


def test_only_handlers_and_main_import_kopf_and_only_cluster_speaks_http() -> None:
    root = Path(__main__.__file__).parent
    for file in root.rglob("*.py"):
        text, where = file.read_text(), file.relative_to(root).parts
        if "import kopf" in text:
            assert where[0] in ("handlers", "__main__.py"), file
        if "import aiohttp" in text:
            assert where[0] == "cluster", file
