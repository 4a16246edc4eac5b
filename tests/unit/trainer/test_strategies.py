"""Which strategy is chosen and refused, and what transformers is told: golden files, read by people."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import strategies
from finetune_trainer.errors import TrainerError
from finetune_trainer.memory import Memory
from finetune_trainer.strategies import ONE_PROCESS, Strategy
from support.jobs import spec

GOLDEN = Path(__file__).parent / "golden"
GIB = 2**30
LENGTH = {"type": "Length", "targetTokens": 8}


def wanted(changes: dict[str, Any] | None = None) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(spec({"resources.gpusPerNode": 2, **(changes or {})}))


@pytest.mark.parametrize(
    ("name", "strategy", "device"),
    [
        ("ddp", Strategy("DDP"), "cuda"),
        ("fsdp", Strategy("FSDP"), "cuda"),
        ("fsdp-cpu", Strategy("FSDP"), "cpu"),
    ],
)
def test_what_transformers_is_told(name: str, strategy: Strategy, device: str) -> None:
    found = strategies.arguments(strategy, device)
    assert found == json.loads((GOLDEN / f"strategy-{name}.json").read_text())
    assert set(found) <= {field.name for field in fields(TrainingArguments)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.type": "GRPO", "method.grpo": {"rewards": [LENGTH]}}, "GRPO on 2 processes"),
        ({"method.type": "KTO"}, "KTO on 2 processes"),
        ({"data.streaming": True, "training.maxSteps": 3}, "streamed rows"),
        (
            {"distributed.strategy": "FSDP", "method.type": "DPO"},
            "DPO of text-generation with FSDP",
        ),
        ({"distributed.strategy": "FSDP", "tuning.type": "IA3"}, "IA3 with FSDP"),
    ],
)
def test_what_is_not_shown_to_be_right_is_refused(changes: dict[str, Any], message: str) -> None:
    job = wanted(changes)
    with pytest.raises(TrainerError, match=message) as caught:
        strategies.refuse(job, 2)
    assert caught.value.reason is Reason.DISTRIBUTED_UNSUPPORTED
    strategies.refuse(job, 1)


@pytest.mark.parametrize(
    ("changes", "room", "name", "why"),
    [
        ({}, 80 * GIB, "DDP", "fits each GPU"),
        ({}, 39 * GIB, "FSDP", "needs 40.0 GiB of the 39.0 GiB"),
        ({"method.type": "DPO"}, 39 * GIB, "DDP", "cannot be sharded"),
        ({}, None, "DDP", "not known"),
    ],
)
def test_auto_goes_by_the_memory_plan_and_says_why(
    changes: dict[str, Any], room: int | None, name: str, why: str
) -> None:
    found, [told] = strategies.choose(wanted(changes), 2, needed=40 * GIB, room=room)
    assert found == Strategy(name)
    assert (told.field, told.value) == ("distributed.strategy", name)
    assert why in told.why


def test_what_is_given_is_taken_and_not_noted() -> None:
    job = wanted({"distributed.strategy": "FSDP"})
    assert strategies.choose(job, 2, needed=1, room=2) == (Strategy("FSDP"), [])
    assert strategies.choose(job, 1, needed=1, room=2) == (ONE_PROCESS, [])


def test_each_process_holds_its_part_of_what_is_sharded() -> None:
    whole = Memory(80, 40, 160, activations=7, logits=5, reference=0, runtime=3)
    assert whole.sharded(4) == Memory(20, 10, 40, 7, 5, 0, 3)
