"""Golden values, worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.length import choose_max_length
from finetune_trainer.errors import TrainerError
from finetune_trainer.resolve import Machine, Settings, divided, resolve
from support.jobs import spec as spec_dict

CPU = Machine("cpu")
GPU = Machine("cuda", "H200", bfloat16=True)
OLD_GPU = Machine("cuda", "T4", bfloat16=False)


def settings(
    changes: dict[str, Any] | None = None,
    machine: Machine = CPU,
    rows: int = 1000,
    max_length: int = 128,
) -> tuple[Settings, dict[str, str]]:
    found, notes = resolve(
        FineTuneJobSpec.model_validate(spec_dict(changes)), machine, rows, max_length
    )
    return found, {note.field: note.value for note in notes}


def test_everything_auto_on_a_cpu() -> None:
    found, notes = settings()
    assert found == Settings(
        device="cpu",
        precision="Float32",
        weights="Float32",
        gradient_checkpointing=False,
        max_length=128,
        batch_size=16,
        # 512 tokens a pass / 128
        micro_batch_size=4,
        # 3 epochs of ceil(1000 / 16) = 63 steps
        total_steps=189,
        learning_rate=2e-4,
        weight_decay=0.0,
        scheduler="Cosine",
        # 0.1 * 189 = 18.9
        warmup_steps=19,
        max_gradient_norm=1.0,
        seed=42,
        log_every=1,
        evaluate_every=None,
    )
    assert found.accumulation == 4
    assert notes == {
        "training.precision": "Float32",
        "training.gradientCheckpointing": "Disabled",
        "training.batchSize": "16",
        "training.microBatchSize": "4",
        "training.epochs": "3",
        "training.maxSteps": "189",
        "training.learningRate": "0.0002",
        "training.weightDecay": "0",
        "training.scheduler.warmupSteps": "19",
        "training.logEverySteps": "1",
        "training.optimizer": "AdamW",
    }


def test_everything_auto_on_a_gpu_with_many_rows() -> None:
    changes = {"tuning.type": "Full", "resources.gpusPerNode": 1}
    found, notes = settings(changes, GPU, rows=64_000, max_length=4096)
    assert (found.device, found.precision, found.weights) == ("cuda", "BFloat16", "Float32")
    assert found.gradient_checkpointing
    # 16384 tokens a pass / 4096
    assert (found.batch_size, found.micro_batch_size, found.accumulation) == (16, 4, 4)
    # 1 epoch
    assert found.total_steps == 4000
    assert (found.learning_rate, found.weight_decay) == (1e-5, 0.01)
    assert (found.warmup_steps, found.log_every) == (400, 40)
    assert notes["resources.gpusPerNode"] == "H200"
    assert notes["training.epochs"] == "1"


def test_what_is_given_is_taken_and_not_noted() -> None:
    training = {
        "training.maxSteps": 7,
        "training.batchSize": 6,
        "training.microBatchSize": 3,
        "training.learningRate": 0.5,
        "training.weightDecay": 0.25,
        "training.precision": "BFloat16",
        "training.gradientCheckpointing": "Enabled",
        "training.scheduler": {"type": "Linear", "warmupSteps": 2},
        "training.logEverySteps": 5,
        "training.evaluateEverySteps": 3,
        "training.optimizer": "Adafactor",
    }
    found, notes = settings(training)
    assert notes == {}
    assert found.optimizer == "Adafactor"
    assert (found.total_steps, found.batch_size, found.micro_batch_size) == (7, 6, 3)
    assert (found.learning_rate, found.weight_decay) == (0.5, 0.25)
    assert (found.precision, found.weights) == ("BFloat16", "BFloat16")
    assert (found.scheduler, found.warmup_steps) == ("Linear", 2)
    assert (found.log_every, found.evaluate_every) == (5, 3)


@pytest.mark.parametrize(
    ("rows", "batch", "steps"),
    # steps: 3 epochs of ceil(rows / batch)
    [(1, 1, 3), (19, 1, 57), (20, 2, 30), (100, 8, 39), (159, 8, 60), (160, 16, 30)],
)
def test_batch_leaves_about_ten_steps_an_epoch(rows: int, batch: int, steps: int) -> None:
    found, _ = settings(rows=rows)
    assert (found.batch_size, found.total_steps) == (batch, steps)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (4, 0), (5, 0), (6, 1), (10, 1), (100, 10)])
def test_warmup_leaves_a_step_that_learns(steps: int, warmup: int) -> None:
    found, _ = settings({"training.maxSteps": steps})
    assert found.warmup_steps == warmup < steps


def test_part_of_an_epoch() -> None:
    found, _ = settings({"training.epochs": 0.5, "training.batchSize": 10}, rows=100)
    assert found.total_steps == 5


def test_constant_has_no_warmup() -> None:
    found, _ = settings({"training.scheduler": {"type": "Constant"}})
    assert found.warmup_steps == 0


def test_gpu_without_bfloat16() -> None:
    found, _ = settings({"resources.gpusPerNode": 1}, OLD_GPU)
    assert (found.device, found.precision) == ("cuda", "Float32")


def test_gpu_that_is_not_wanted_and_gpu_that_is_not_there() -> None:
    assert settings(machine=GPU)[0].device == "cpu"
    found, notes = settings({"resources.gpusPerNode": 1}, Machine("cpu", laptop=True))
    assert (found.device, notes["resources.gpusPerNode"]) == ("cpu", "0")
    with pytest.raises(TrainerError, match=r"asks for 1 nvidia\.com/gpu") as caught:
        settings({"resources.gpusPerNode": 1}, CPU)
    assert caught.value.reason is Reason.GPU_NOT_FOUND


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.batchSize": 8, "training.microBatchSize": 3}, "3 does not divide the batch size 8"),
        ({"training.maxSteps": 5, "training.scheduler": {"warmupSteps": 5}}, "only 5 steps"),
    ],
)  # fmt: skip
def test_contradictions(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message) as caught:
        settings(changes)
    assert caught.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize(
    ("lengths", "limit", "expected"),
    [
        ([10, 20, 30], None, 32),
        ([32] * 3, None, 32),
        # One row twenty times as long as the rest is cut ...
        ([50] * 199 + [1000], None, 56),
        # ... one that is half as long again is not.
        ([50] * 199 + [75], None, 80),
        ([5000] * 10, None, 4096),
        ([5000] * 10, 100_000, 4096),
        ([600] * 10, 512, 512),
    ],
)
def test_max_length(lengths: list[int], limit: int | None, expected: int) -> None:
    assert choose_max_length("Auto", lengths, limit)[0] == expected


def test_max_length_beyond_the_model() -> None:
    assert choose_max_length(512, [1], 512)[0] == 512
    with pytest.raises(TrainerError, match="is 513, but the model has 512") as caught:
        choose_max_length(513, [1], 512)
    assert caught.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize(
    ("micro", "divisor", "expected"), [(8, 2, 4), (8, 4, 2), (6, 2, 3), (6, 4, 1), (1, 2, 1)]
)
def test_after_memory_ran_out_a_pass_is_smaller_and_the_step_is_not(
    micro: int, divisor: int, expected: int
) -> None:
    spec = spec_dict({"training.batchSize": 24, "training.microBatchSize": micro})
    found = resolve(FineTuneJobSpec.model_validate(spec), CPU, 1000, 128)
    smaller, notes = divided(*found, divisor)
    assert (smaller.micro_batch_size, smaller.accumulation) == (expected, 24 // expected)
    assert smaller.batch_size == 24
    (note,) = [each for each in notes if each.field == "training.microBatchSize"]
    assert note.value == str(expected)
    assert divided(*found, 1) == found


@pytest.mark.parametrize(
    ("changes", "processes", "batch", "micro", "passes"),
    [
        # 16 rows a step; 8 each are one pass.
        ({}, 2, 16, 8, 1),
        ({"training.batchSize": 24}, 2, 24, 6, 2),
        ({"training.batchSize": 24, "training.microBatchSize": 3}, 2, 24, 3, 4),
        # A multiple of three that is not above sixteen.
        ({}, 3, 15, 5, 1),
        ({}, 32, 32, 1, 1),
    ],
)
def test_processes_share_each_batch(
    changes: dict[str, Any], processes: int, batch: int, micro: int, passes: int
) -> None:
    found, _ = settings(changes, replace(CPU, processes=processes), max_length=64)
    assert (found.batch_size, found.micro_batch_size, found.accumulation) == (batch, micro, passes)
    assert found.micro_batch_size * found.accumulation * processes == found.batch_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.batchSize": 10}, "10 is not a multiple of 4"),
        ({"training.batchSize": 8, "training.microBatchSize": 4}, "over 4 processes, which is 2"),
    ],
)
def test_batches_that_cannot_be_shared(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message) as caught:
        settings(changes, replace(CPU, processes=4))
    assert caught.value.reason is Reason.INVALID_SPEC
