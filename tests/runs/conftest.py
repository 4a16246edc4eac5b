"""Whole runs of the trainer, on tiny models; with the fixtures of its unit tests."""

from support.trainer_fixtures import (  # noqa: F401 - found by name
    laptop,
    model_folder,
    restored_signals,
    run_here_fixture,
    s3,
)
