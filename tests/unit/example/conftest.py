"""The example's scripts, loaded from their files: they belong to no package."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "01-kubectl-assistant"


def script(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def prepare():
    return script("prepare")


@pytest.fixture(scope="session")
def ask():
    return script("ask")


@pytest.fixture(scope="session")
def job_file():
    return EXAMPLE / "job.yaml"
