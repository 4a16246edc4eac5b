"""The fixtures of the trainer's tests."""

from support.trainer_fixtures import (  # noqa: F401 - found by name
    laptop,
    model_folder,
    restored_signals,
    run_here_fixture,
    s3,
)
