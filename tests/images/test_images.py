"""Both images, built for real and run: the right packages, the right user, nothing left behind."""

import os
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from support.images import ROOT, Image, build, missing_tools

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing_tools()), reason=missing_tools() or "never"),
]
BUILD_TRAINER = "FINETUNE_BUILD_TRAINER_IMAGE"
needs_trainer = pytest.mark.skipif(
    os.environ.get(BUILD_TRAINER) != "1",
    reason=f"the trainer image is 6 GB of wheels; set {BUILD_TRAINER}=1 to build it",
)
PYTHON = "/opt/finetune/bin/python3"
PRESENT_OR_NOT = """
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name)))
"""
EXISTING = """
import os, sys
print(*(path for path in sys.argv[1:] if os.path.exists(path)))
"""
LEFTOVERS = ("/src", "/wheel", "/opt/build", "/run/secrets", "/etc/pip.conf")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("operator")
    image = build("operator/Dockerfile", "localhost/finetune-operator:test", folder)
    yield image
    image.remove()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("trainer")
    image = build("trainer_image/Dockerfile", "localhost/finetune-trainer:test", folder)
    yield image
    image.remove()


def importable(image: Image, *names: str) -> set[str]:
    return set(image.run(PYTHON, "-c", PRESENT_OR_NOT, *names).split())


def check_frame(image: Image, program: str) -> None:
    """What holds for both: exec-form entry point, user, import path, labels, no build tools."""
    config: dict[str, Any] = image.config()
    assert config["Entrypoint"] == [f"/opt/finetune/bin/{program}"]
    assert config["User"] == "65532:65532"
    assert "PYTHONSAFEPATH=1" in config["Env"]
    assert config["Labels"]["org.opencontainers.image.title"] == program
    assert config["Labels"]["org.opencontainers.image.version"] == "test"
    assert importable(image, "pip", "hatchling", "finetune_api") == {"finetune_api"}
    assert image.run("/usr/bin/id").startswith("uid=65532(finetune) gid=65532(finetune)")
    assert image.run(PYTHON, "-c", EXISTING, "/opt/finetune", *LEFTOVERS).split() == [
        "/opt/finetune"
    ]


def test_operator_frame(operator: Image) -> None:
    check_frame(operator, "finetune-operator")


def test_operator_has_its_own_packages_only(operator: Image) -> None:
    asked = ("kopf", "aiohttp", "structlog", "pydantic_settings", "torch", "transformers", "boto3")
    assert importable(operator, *asked) == {"kopf", "aiohttp", "structlog", "pydantic_settings"}


def test_operator_starts(operator: Image) -> None:
    help_text = operator.run(*operator.config()["Entrypoint"], "--help")
    assert "FINETUNE_OPERATOR_TRAINER_IMAGE" in help_text


@needs_trainer
def test_trainer_frame(trainer: Image) -> None:
    check_frame(trainer, "finetune-trainer")


@needs_trainer
def test_trainer_has_its_own_packages_only(trainer: Image) -> None:
    asked = ("torch", "transformers", "peft", "trl", "boto3", "kopf", "kubernetes", "aiohttp")
    found = importable(trainer, *asked)
    assert {"torch", "transformers", "peft", "trl", "boto3"} <= found
    assert not {"kopf", "kubernetes"} & found


@needs_trainer
def test_trainer_starts(trainer: Image) -> None:
    printed = trainer.run(*trainer.config()["Entrypoint"], "version")
    assert VERSION in printed
    cuda = trainer.run(PYTHON, "-c", "import torch; print(torch.version.cuda)")
    assert cuda.strip() != "None", "torch must be the CUDA build"
