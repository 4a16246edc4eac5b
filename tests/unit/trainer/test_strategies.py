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
GRPO = {"type": "GRPO", "grpo": {"rewards": [{"type": "Regex", "pattern": "e"}]}}
ZERO3, ALL = {"distributed.strategy": "ZeRO3"}, {"distributed.offload": "All"}


def wanted(changes: dict[str, Any] | None = None) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(spec({"resources.gpusPerNode": 2, **(changes or {})}))


@pytest.mark.parametrize(
    ("name", "strategy", "device", "precision"),
    [
        ("ddp", Strategy("DDP"), "cuda", "BFloat16"),
        ("fsdp", Strategy("FSDP"), "cuda", "BFloat16"),
        ("fsdp-cpu", Strategy("FSDP"), "cpu", "Float32"),
        ("zero1-offload", Strategy("ZeRO1", "Optimizer"), "cuda", "BFloat16"),
        ("zero2", Strategy("ZeRO2"), "cuda", "BFloat16"),
        ("zero2-cpu", Strategy("ZeRO2"), "cpu", "Float32"),
        ("zero3-offload", Strategy("ZeRO3", "All"), "cuda", "BFloat16"),
    ],
)
def test_what_transformers_is_told(
    name: str, strategy: Strategy, device: str, precision: str
) -> None:
    found = strategies.arguments(strategy, device, precision)
    assert found == json.loads((GOLDEN / f"strategy-{name}.json").read_text())
    assert set(found) <= {field.name for field in fields(TrainingArguments)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"distributed.strategy": "FSDP", "method": GRPO},
            "GRPO with FSDP",
        ),
        ({"distributed.strategy": "FSDP", "tuning.type": "IA3"}, "IA3 with FSDP"),
        ({**ZERO3, "method": GRPO}, "GRPO with ZeRO3"),
        (
            {"distributed.strategy": "FSDP", "model.task": "fill-mask"},
            "SFT of fill-mask with FSDP",
        ),
        ({**ZERO3, "training.optimizer": "Adafactor"}, "Adafactor with ZeRO3"),
        ({**ZERO3, "tuning.lora": {"learningRateRatio": 16}}, "learningRateRatio` with ZeRO3"),
        ({"distributed.strategy": "FSDP", **ALL}, "offload` with FSDP"),
        (
            {"distributed.strategy": "FSDP", "training.gradientCheckpointing": "Offload"},
            "offloaded inputs of layers with FSDP",
        ),
        ({"distributed.strategy": "ZeRO2", **ALL}, "All` with ZeRO2"),
        ({**ZERO3, **ALL, "resources.nodes": 2, "resources.gpusPerNode": 0}, "without GPUs"),
    ],
)
def test_what_is_not_shown_to_be_right_is_refused(changes: dict[str, Any], message: str) -> None:
    job = wanted(changes)
    with pytest.raises(TrainerError, match=message) as caught:
        strategies.refuse(job, 2)
    assert caught.value.reason is Reason.DISTRIBUTED_UNSUPPORTED
    if job.distributed.offload == "None":
        strategies.refuse(job, 1)


def test_offload_on_one_gpu_is_refused_and_not_passed_over() -> None:
    job = wanted({**ZERO3, **ALL})
    strategies.refuse(job, 2)
    with pytest.raises(TrainerError, match="on one GPU"):
        strategies.refuse(job, 1)


@pytest.mark.parametrize(
    ("changes", "room", "name", "why"),
    [
        ({}, 80 * GIB, "DDP", "fits each GPU"),
        ({}, 39 * GIB, "FSDP", "needs 40.0 GiB of the 39.0 GiB"),
        ({"method.type": "DPO"}, 39 * GIB, "FSDP", "needs 40.0 GiB"),
        ({"tuning.type": "IA3"}, 39 * GIB, "DDP", "cannot be sharded"),
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


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("DDP", (80, 40, 160)),
        ("ZeRO1", (80, 40, 40)),
        ("ZeRO2", (80, 10, 40)),
        ("ZeRO3", (20, 10, 40)),
        ("FSDP", (20, 10, 40)),
    ],
)
def test_each_process_holds_its_part_of_what_is_divided(
    name: str, held: tuple[int, int, int]
) -> None:
    whole = Memory(80, 40, 160, activations=7, logits=5, reference=0, runtime=3)
    assert whole.divided(4, Strategy(name).parts) == Memory(*held, 7, 5, 0, 3)


@pytest.mark.parametrize(
    ("strategy", "held", "host"),
    [
        (Strategy("FSDP"), (20, 10, 40), 0),
        # With a copy of what is trained, 40 in all, which is stepped.
        (Strategy("ZeRO1"), (80, 40, 50), 0),
        (Strategy("ZeRO1", "Optimizer"), (80, 40, 0), 50),
        (Strategy("ZeRO2", "Optimizer"), (80, 0, 0), 60),
        (Strategy("ZeRO3", "Optimizer"), (20, 0, 0), 60),
        (Strategy("ZeRO3", "All"), (0, 0, 0), 80),
    ],
)
def test_what_is_offloaded_is_on_the_host_and_no_longer_on_the_device(
    strategy: Strategy, held: tuple[int, int, int], host: int
) -> None:
    whole = Memory(80, 40, 160, activations=7, logits=5, reference=0, runtime=3)
    assert whole.spread(strategy, 4) == (Memory(*held, 7, 5, 0, 3), host)
