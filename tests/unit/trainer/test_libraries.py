"""Which libraries a job does not use follows from its spec; `tests/runs` shows that none is imported."""

from typing import Any

import pytest

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_trainer import libraries
from support.jobs import spec

QLORA = {"tuning": {"type": "QLoRA", "quantization": {"type": "NF4"}}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"scipy", "bitsandbytes", "deepspeed"}),
        (QLORA, {"deepspeed"}),
        ({"training.optimizer": "PagedAdamW8bit"}, {"scipy", "deepspeed"}),
        ({"resources.nodes": 2, "distributed.strategy": "ZeRO2"}, {"scipy", "bitsandbytes"}),
        (
            {"resources.nodes": 2, "distributed.strategy": "FSDP"},
            {"scipy", "bitsandbytes", "deepspeed"},
        ),
    ],
)
def test_a_spec_tells_what_is_not_used(changes: dict[str, Any], expected: set[str]) -> None:
    found = libraries.unused(FineTuneJobSpec.model_validate(spec(changes)))
    assert set(found) == expected
