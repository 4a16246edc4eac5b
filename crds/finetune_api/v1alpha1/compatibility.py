"""Which method, task, tuning and kind of model go together: one table for API server and trainer.

The rows stand in `compatibility_rows`. Those that need no look at the model become rules of the spec,
so that `kubectl apply` refuses; the others are judged by the trainer's preflight, which knows the
model's family. `make matrix` runs every cell and fails where the table does not tell the truth.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_api.meta import Rule
from finetune_api.v1alpha1.compatibility_rows import REFUSALS, Refusal
from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.tuning import TuningType

if TYPE_CHECKING:
    from finetune_api.v1alpha1.job import FineTuneJobSpec

# Condition of a row -> what it asks of a spec, in the API server's language.
_CEL = {
    "methods": "self.method.type in {}",
    "tasks": "self.model.task in {}",
    "tunings": "self.tuning.type in {}",
    "variants": "has(self.tuning.lora) && self.tuning.lora.variant in {}",
    "quantizations": "has(self.tuning.quantization) && self.tuning.quantization.type in {}",
    "others": "has(self.tuning.other) && self.tuning.other.name in {}",
}
_FLAGS = {
    "merged": "self.output.merged",
    "checkpointing": "self.training.gradientCheckpointing in ['Enabled', 'Offload']",
    "packed": "self.data.packing == 'Enabled'",
}


@dataclass(frozen=True)
class Cell:
    """One combination.

    Attributes:
        family: The model's `model_type`, such as `llama`; None where it is not known.
        variant: Of LoRA and QLoRA.
        quantization: Number format of the base; None for one that is not quantised.
        other: PEFT's name of an `Other` tuning.
        merged: Whether merged weights are published.
        checkpointing: Whether activations are recomputed because the spec says so.
        packed: Whether packing is demanded.
    """

    method: MethodType
    task: Task
    tuning: TuningType
    family: str | None = None
    variant: str | None = None
    quantization: str | None = None
    other: str | None = None
    merged: bool = False
    checkpointing: bool = False
    packed: bool = False


def cell_of(spec: "FineTuneJobSpec", family: str | None = None) -> Cell:
    """The combination that a spec asks for."""
    tuning = spec.tuning
    return Cell(
        method=spec.method.type,
        task=spec.model.task,
        tuning=tuning.type,
        family=family,
        variant=tuning.lora.variant if tuning.lora else None,
        quantization=tuning.quantization.type if tuning.quantization else None,
        other=tuning.other.name if tuning.other else None,
        merged=spec.output.merged,
        checkpointing=spec.training.gradient_checkpointing in ("Enabled", "Offload"),
        packed=spec.data.packing == "Enabled",
    )


def verdict(cell: Cell) -> Refusal | None:
    """The first row that refuses the combination; None if it works."""
    return next((row for row in REFUSALS if _refuses(row, cell)), None)


def rules() -> tuple[Rule, ...]:
    """The rows that need no look at the model, as rules of the spec."""
    return tuple(_rule(row) for row in REFUSALS if not row.families)


def _rule(row: Refusal) -> Rule:
    return Rule(
        cel=f"!({_condition(row)})",
        message=str(row),
        check=lambda spec: not _refuses(row, cell_of(spec)),
    )


def _condition(row: Refusal) -> str:
    lists = [
        text.format(list(values)) for name, text in _CEL.items() if (values := getattr(row, name))
    ]
    return " && ".join([*lists, *(text for name, text in _FLAGS.items() if getattr(row, name))])


def _refuses(row: Refusal, cell: Cell) -> bool:
    asked = {
        "methods": cell.method,
        "tasks": cell.task,
        "tunings": cell.tuning,
        "families": cell.family,
        "variants": cell.variant,
        "quantizations": cell.quantization,
        "others": cell.other,
    }
    listed = all(
        not getattr(row, name) or value in getattr(row, name) for name, value in asked.items()
    )
    return listed and all(not getattr(row, name) or getattr(cell, name) for name in _FLAGS)
