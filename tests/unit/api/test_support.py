"""Fields without behaviour are named, every one, and supported specs pass."""

import pytest

from finetune_api.support import unsupported
from finetune_api.v1alpha1 import FineTuneJobSpec
from support.jobs import spec


def found(changes: dict[str, object]) -> list[str]:
    return [u.path for u in unsupported(FineTuneJobSpec.model_validate(spec(changes)))]


def test_the_minimal_job_is_supported() -> None:
    assert found({}) == []


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"data.train": [{"source": "job://first"}]}, "data.train[0].source"),
        (
            {"tracking": {"wandb": {"project": "p", "credentials": {"secretName": "s"}}}},
            "tracking.wandb",
        ),
    ],
)
def test_a_field_without_behaviour_is_named(changes: dict[str, object], path: str) -> None:
    assert found(changes) == [path]


def test_all_findings_are_given_at_once() -> None:
    changes: dict[str, object] = {"training.extra": {"a": 1}, "training.precision": "Float16"}
    assert found(changes) == ["training.precision", "training.extra"]
