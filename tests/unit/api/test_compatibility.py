"""The compatibility table as rules of the spec. That its rows are true is shown by `make matrix`."""

from typing import get_args

import pytest

from finetune_api.v1alpha1.compatibility import Cell, rules, verdict
from finetune_api.v1alpha1.compatibility_rows import REFUSALS, Refusal
from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.tuning import TuningType


def test_the_usual_jobs_work_on_a_family_that_nobody_named() -> None:
    assert verdict(Cell("SFT", "text-generation", "LoRA", "gemma3_text")) is None
    assert verdict(Cell("PPO", "text-generation", "Full", "phi3")) is None


def test_a_row_with_families_waits_for_the_family() -> None:
    assert verdict(Cell("SFT", "fill-mask", "LoRA")) is None
    refusal = verdict(Cell("SFT", "fill-mask", "LoRA", "llama"))
    assert refusal is not None
    assert "encoder" in str(refusal)


def test_rules_are_made_of_the_rows_without_families() -> None:
    assert [rule.message for rule in rules()] == [str(r) for r in REFUSALS if not r.families]


@pytest.mark.parametrize("row", REFUSALS, ids=str)
def test_every_row_names_values_that_exist_and_refuses_something(row: Refusal) -> None:
    assert set(row.methods) <= set(get_args(MethodType))
    assert set(row.tasks) <= set(get_args(Task))
    assert set(row.tunings) <= set(get_args(TuningType))
    conditions = (
        row.methods, row.tasks, row.tunings, row.families, row.variants, row.quantizations,
        row.others, row.merged, row.checkpointing, row.packed,
    )  # fmt: skip
    assert any(conditions), "a row without a condition refuses every job"
