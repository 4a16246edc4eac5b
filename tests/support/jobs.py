"""Manifests for tests: the smallest valid FineTuneJob, changed at dotted paths.

`manifest("demo", {"training.seed": 7, "tuning.type": "Full"})` sets fields below `spec`; the value
`ABSENT` removes one. Used by unit, cluster and e2e tests.
"""

import copy
from typing import Any


class _Absent:
    """Survives copying, unlike a bare object."""

    def __deepcopy__(self, memo: object) -> "_Absent":
        return self


ABSENT = _Absent()

MINIMAL_SPEC: dict[str, Any] = {
    "model": {"source": "s3://models/base"},
    "data": {"train": [{"source": "s3://datasets/train.jsonl"}]},
    "resources": {"gpusPerNode": 0},
    "output": {"uri": "s3://models/tuned"},
}


def manifest(
    name: str = "demo", changes: dict[str, Any] | None = None, *, namespace: str = "default"
) -> dict[str, Any]:
    """A FineTuneJob manifest: the minimal spec with `changes` at dotted paths below it."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec(changes),
    }


def spec(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The minimal spec with `changes` at dotted paths."""
    result = copy.deepcopy(MINIMAL_SPEC)
    for path, value in copy.deepcopy(changes or {}).items():
        _set(result, path.split("."), value)
    return result


def _set(target: dict[str, Any], path: list[str], value: object) -> None:
    *parents, last = path
    for key in parents:
        target = target.setdefault(key, {})
    if value is ABSENT:
        target.pop(last, None)
    else:
        target[last] = value
