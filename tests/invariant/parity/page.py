"""docs/reference/parity.md: what the comparisons found, as two tables."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from invariant.parity.cases import SAME, SPLIT_STEPS, Case
from invariant.parity.compare import Parity, Split
from invariant.parity.ours import STEPS

PATH = Path(__file__).parents[3] / "docs" / "reference" / "parity.md"
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate")
_HEAD = f"""# Parity with the libraries

Written by `make parity`; `tests/invariant/test_parity.py` repeats it, and fails where losses
differ by more than {SAME:g}.

## Against the trainers of TRL and transformers

{STEPS} steps in float32 on the CPU with a LoRA adapter on a tiny model, dropout off, and rows of very unequal
length. Ours is a FineTuneJob, run as a user would. The peer is the library's own trainer, given the raw rows
and the same arguments in its own words; it renders, tokenizes and masks by itself. For pairs it is told
their lengths, by which its sampler puts like rows together. *Loss* is the largest difference between the
losses of a step, *gradient* that between the norms of the gradient, relative where they are above 1.

| Method | Peer | Loss | Gradient | Note |
|---|---|---|---|---|
"""
_SPLITS = f"""
## However a step is split

The same batch in one pass, in two, and row by row; {SPLIT_STEPS} steps, of which one holds fewer rows than
the others: the largest differences of losses, of norms of the gradient, and of elements of the published
adapters. The peers above have one pass a step (SFT: two), because TRL's trainers for pairs take the mean of
the means of passes, and z₀ of KTO from each pass alone. Here both are of the whole step.

Three losses are of one pass by their definition, so `microBatchSize` is one of their settings: `BNPO` of
GRPO, a mean over the tokens of a pass (of the whole step, it is `DAPO`), and `AOT` and `AOTUnpaired` of DPO,
which sort the pairs of a pass.

| Method | The loss of a step is a mean over | Loss | Gradient | Weights |
|---|---|---|---|---|
"""


def write(parities: Sequence[Parity], splits: Sequence[Split]) -> None:
    """Write the page."""
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    PATH.write_text(
        _HEAD
        + "".join(_parity(each) for each in parities)
        + f"\nWith {versions}. The curves are kept in `tests/invariant/curves`.\n"
        + _SPLITS
        + "".join(_split(each) for each in splits),
        "utf-8",
    )


def lists(case: Case) -> bool:
    """Whether the tables of the page have the rows of a method."""
    return PATH.read_text("utf-8").count(f"\n| {case.name} | ") == 1 + case.splits


def _parity(found: Parity) -> str:
    case = found.case
    figures = [_figure(found.loss), _figure(found.norm)]
    return f"| {case.name} | {case.peer or 'none'} | {' | '.join(figures)} | {case.note} |\n"


def _split(found: Split) -> str:
    figures = [_figure(each) for each in (found.loss, found.norm, found.weight)]
    return f"| {found.case.name} | {found.case.means} | {' | '.join(figures)} |\n"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0e}" if value else "0"
