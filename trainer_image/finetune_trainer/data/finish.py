"""The last steps of every preparer: choose the length, cut, leave out, hold out, draw, count.

Nothing is cut or left out in silence: all of it is counted, and if too much has nothing to learn from,
the run is refused before it costs anything.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Plan, Resolved
from finetune_trainer.data.given import Given
from finetune_trainer.data.held_out import hold_out
from finetune_trainer.data.length import choose_max_length
from finetune_trainer.data.mapped import MappedRows, at, lengths
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import DataRow
from finetune_trainer.data.treatment import Treatment, treatment
from finetune_trainer.data.weights import draw
from finetune_trainer.errors import TrainerError

logger = logging.getLogger(__name__)

_SHOWN = 5

R = TypeVar("R", bound=DataRow)


@dataclass(frozen=True)
class Findings:
    """What a preparer found out itself.

    Attributes:
        treatment: What was cut and left out.
        resolved: What was decided.
        label_names: Classes or tags by number.
        pairs: Whether rows are pairs, whose identical ones are counted.
    """

    treatment: Treatment = field(default_factory=Treatment)
    resolved: list[Resolved] = field(default_factory=list)
    label_names: tuple[str, ...] = ()
    pairs: bool = False


def finish(
    given: Given,
    train: Sequence[R],
    evaluation: Sequence[R],
    *,
    findings: Findings | None = None,
) -> Prepared[R]:
    """Cut the rows to the longest length, leave out what is empty then, and put all together.

    Args:
        given: What the preparer was given.
        train: All training rows, uncut.
        evaluation: All rows of evaluation sources, uncut.
        findings: What the preparer found before.

    Raises:
        TrainerError: RowsTooLong or NoSupervisedTokens if too many rows are left out; DataEmpty if
            the held-out fraction leaves nothing.
    """
    before = findings or Findings()
    max_length, why = choose_max_length(given.data.max_length, lengths(train), given.limit)
    cut, cut_evaluation = (_cut(given, rows, max_length) for rows in (train, evaluation))
    done = treatment(train, cut) + treatment(evaluation, cut_evaluation)
    kept = _usable(given, train, cut, max_length)
    kept_evaluation = _usable(given, evaluation, cut_evaluation, max_length)
    note = length_note(given, max_length, f"{why}; {len(done.cut)} rows are cut")
    found = replace(before, treatment=before.treatment + done, resolved=[*before.resolved, *note])
    return assemble(given, kept, kept_evaluation, max_length, found)


def assemble(
    given: Given, train: Sequence[R], evaluation: Sequence[R], max_length: int, found: Findings
) -> Prepared[R]:
    """Hold out, draw by weight, and count."""
    kept, held_out = hold_out(given, train, evaluation)
    kept, drawn = draw(given, kept)
    causes = Counter(row.cause for row in found.treatment.left_out)
    plan = Plan(
        rows=len(kept),
        evaluation_rows=len(held_out),
        supervised_tokens=sum(row.supervised for row in kept),
        truncated_rows=len(found.treatment.cut),
        skipped_rows=causes.total() - causes["Identical"],
        identical_pairs=causes["Identical"] if found.pairs else None,
    )
    resolved = [*found.resolved, *drawn]
    names, done = found.label_names, found.treatment
    return Prepared(kept, held_out, max_length, plan, resolved, names, done)


def too_many(share: float, left_out: int, total: int) -> bool:
    """Whether so many rows are left out that the run is refused, or all are."""
    return left_out > share * total or left_out == total > 0


def first_origins(rows: Sequence[DataRow]) -> str:
    """The places of the first five rows, for messages."""
    more = len(rows) - _SHOWN
    listed = ", ".join(row.origin for row in rows[:_SHOWN])
    return f"{listed} and {more} more" if more > 0 else listed


def length_note(given: Given, max_length: int, why: str) -> list[Resolved]:
    """What became of `data.maxLength: Auto`."""
    if given.data.max_length != AUTO:
        return []
    return [Resolved(field="data.maxLength", value=str(max_length), why=why)]


def _cut(given: Given, rows: Sequence[R], max_length: int) -> Sequence[R]:
    if given.store and isinstance(rows, MappedRows):
        return given.store.cut(rows, max_length)
    return [row.truncated(max_length) for row in rows]


def _usable(given: Given, whole: Sequence[R], cut: Sequence[R], max_length: int) -> Sequence[R]:
    kept = [index for index, row in enumerate(cut) if row.supervised]
    skipped = [row for row, after in zip(whole, cut, strict=True) if not after.supervised]
    for row in skipped[:10]:
        logger.warning("%s has no token that carries loss and is left out", row.origin)
    if too_many(given.data.limits.max_skipped, len(skipped), len(whole)):
        raise _refusal(given, len(whole), max_length, skipped)
    return at(cut, kept)


def _refusal(given: Given, total: int, max_length: int, skipped: Sequence[DataRow]) -> TrainerError:
    cut = [row for row in skipped if row.supervised]
    masked = [row for row in skipped if not row.supervised]
    message = (
        f"{len(skipped)} of {total} rows have no token that carries loss: {len(cut)} lose them when "
        f"cut to {max_length} tokens, {len(masked)} have none for `data.loss: {given.examples.loss}`"
    )
    if len(cut) >= len(masked):
        return TrainerError(Reason.ROWS_TOO_LONG, f"{message}: {first_origins(cut)}")
    return TrainerError(Reason.NO_SUPERVISED_TOKENS, f"{message}: {first_origins(masked)}")
