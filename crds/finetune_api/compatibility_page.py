"""The page `docs/reference/compatibility.md`: what goes together, as tables, and why the rest does not.

Called by `python -m finetune_api`; `make matrix` runs the same cells. Nothing is decided here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from finetune_api.reference import NOTE
from finetune_api.v1alpha1.compatibility import Cell, verdict
from finetune_api.v1alpha1.compatibility_rows import DECODERS, OTHERS, SUPERVISED, Refusal
from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.tuning import Quantization, TuningType

METHODS: tuple[MethodType, ...] = get_args(MethodType)
TUNINGS: tuple[TuningType, ...] = tuple(t for t in get_args(TuningType) if t != "Other")
FAMILIES = (*DECODERS, "t5", "bert")
VARIANTS = ("Standard", "RsLoRA", "DoRA", "PiSSA", "OLoRA", "LoftQ")
QUANTIZATIONS = (None, *get_args(Quantization.model_fields["type"].annotation))
# A task that the family is made for.
OWN_TASK: dict[str, Task] = {"t5": "text2text-generation", "bert": "text-classification"}


@dataclass(frozen=True)
class View:
    """One table.

    Attributes:
        title: Its heading.
        text: What stands above it.
        corner: What the rows are.
        rows: Name of each row and its cells, one a column.
        columns: Names of the columns.
    """

    title: str
    text: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def cells() -> list[Cell]:
    """Every cell of every table, once."""
    return list(dict.fromkeys(c for view in views() for _, row in view.rows for c in row))


def views() -> tuple[View, ...]:
    """The tables, in order."""
    return (*_methods(), _tasks(), _variants(), _others(), _merged())


def page() -> str:
    """The page."""
    reasons: dict[Refusal, int] = {}
    tables = "\n".join(_table(view, reasons) for view in views())
    listed = "\n".join(f"{number}. {_sentence(row)}" for row, number in reasons.items())
    every = cells()
    works = sum(verdict(cell) is None for cell in every)
    return (
        f"{NOTE}# What goes together\n\n"
        f"{len(every)} combinations of method, task, tuning and model, of which {works} work (✓). A "
        "number says why the others are refused: at `kubectl apply`, or by the preflight where the "
        "model has to be known, with the reason `UnsupportedCombination`. Nothing falls back to "
        "something else.\n\n"
        "Every cell was run, the refused ones too: `make matrix` trains a tiny model of the family "
        "for two steps with real libraries, publishes it, reads it back and compares, and fails "
        "where this page does not tell the truth. A family that is not listed is tried.\n\n"
        f"{tables}\n## Reasons\n\n{listed}\n"
    )


def _sentence(row: Refusal) -> str:
    silent = f" No library raises an error: {row.silent}." if row.silent else ""
    return f"{row.why[0].upper()}{row.why[1:]}.{silent}"


def _table(view: View, reasons: dict[Refusal, int]) -> str:
    head = f"| {view.corner} | {' | '.join(view.columns)} |\n|{'---|' * (len(view.columns) + 1)}\n"
    lines = [
        f"| {name} | {' | '.join(_mark(cell, reasons) for cell in row)} |"
        for name, row in view.rows
    ]
    return f"## {view.title}\n\n{view.text}\n\n{head}" + "\n".join(lines) + "\n"


def _mark(cell: Cell, reasons: dict[Refusal, int]) -> str:
    refusal = verdict(cell)
    return "✓" if refusal is None else str(reasons.setdefault(refusal, len(reasons) + 1))


def _methods() -> Iterator[View]:
    for family in DECODERS:
        rows = tuple((m, _tuned(Cell(m, "text-generation", "Full", family))) for m in METHODS)
        yield View(
            f"Methods and tunings on {family}",
            "Task text-generation.",
            "Method",
            TUNINGS,
            rows,
        )


def _tasks() -> View:
    rows = [
        (f"{task}, {family}", _tuned(Cell("SFT", task, "Full", family)))
        for task in SUPERVISED
        for family in FAMILIES
    ]
    rows += [
        (f"text-generation, {family}", _tuned(Cell("SFT", "text-generation", "Full", family)))
        for family in ("t5", "bert")
    ]
    text = "Method SFT, the only one of these tasks."
    return View("Tasks and families", text, "Task, family", TUNINGS, tuple(rows))


def _variants() -> View:
    rows = tuple(
        (f"{variant}, {number or 'not quantised'}", _over_families(_lora(variant, number)))
        for variant in VARIANTS
        for number in QUANTIZATIONS
    )
    text = "SFT with LoRA, or with QLoRA where the base is quantised; each family on its own task."
    return View("Variants of LoRA and number formats of the base", text, "Variant", FAMILIES, rows)


def _lora(variant: str, quantization: str | None) -> Cell:
    tuning: TuningType = "QLoRA" if quantization else "LoRA"
    plain = Cell("SFT", "text-generation", tuning)
    return replace(plain, variant=variant, quantization=quantization)


def _others() -> View:
    families = ("llama", "gpt2", "t5", "bert")
    plain = Cell("SFT", "text-generation", "Other")
    rows = tuple((name, _over_families(replace(plain, other=name), families)) for name in OTHERS)
    text = "SFT with `tuning.type: Other`, by PEFT's own name; each family on its own task."
    return View("Other adapters of PEFT", text, "`other.name`", families, rows)


def _merged() -> View:
    families = ("llama", "t5", "bert")
    plain = Cell("SFT", "text-generation", "LoRA")
    adapters: list[tuple[str, Cell]] = [(t, replace(plain, tuning=t)) for t in TUNINGS]
    adapters += [(f"LoRA, {variant}", _lora(variant, None)) for variant in VARIANTS[1:]]
    adapters += [(name, replace(plain, tuning="Other", other=name)) for name in OTHERS]
    rows = tuple((name, _over_families(_merging(cell), families)) for name, cell in adapters)
    return View("Merged weights", "SFT with `output.merged: true`.", "Tuning", families, rows)


def _merging(cell: Cell) -> Cell:
    number = "NF4" if cell.tuning == "QLoRA" else cell.quantization
    return replace(cell, merged=True, quantization=number)


def _tuned(cell: Cell) -> tuple[Cell, ...]:
    return tuple(
        replace(cell, tuning=tuning, quantization="NF4" if tuning == "QLoRA" else None)
        for tuning in TUNINGS
    )


def _over_families(cell: Cell, families: Sequence[str] = FAMILIES) -> tuple[Cell, ...]:
    return tuple(
        replace(cell, family=family, task=OWN_TASK.get(family, "text-generation"))
        for family in families
    )
