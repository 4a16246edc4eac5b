"""Judging: what was counted against `data.limits`, one function a question. Pure.

Called by `draw_up`. A breach ends the run; everything else that is amiss is only told.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from finetune_api.meta import ApiModel
from finetune_api.v1alpha1.data import Limits
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.contract.measure import Measures
from finetune_trainer.data.treatment import Cause, Treatment
from finetune_trainer.errors import TrainerError

NAMED = 5
"""How many offending rows a finding names."""
_RARE = 0.01

_CAUSES: dict[Cause, str] = {
    "Cut": "lose all that they teach when they are cut, and are left out",
    "Masked": "have no token that carries loss, and are left out",
    "Identical": "have the same answer twice, and are left out",
    "TooLong": "leave no room for an answer, and are left out",
}


class Finding(ApiModel):
    """Something about the data that is not as it should be."""

    question: str
    """What was looked at."""

    message: str
    """What was found, in a sentence."""

    rows: int
    """How many rows."""

    of: int
    """Of how many."""

    limit: float | None = None
    """The share that is accepted; absent where nothing is refused."""

    reason: str | None = None
    """Why the run is refused; absent if it is not."""

    first: list[str] = Field(default_factory=list)
    """File and line of the first rows."""

    def __str__(self) -> str:
        """The sentence with the places."""
        more = self.rows - len(self.first)
        places = ", ".join(self.first) + (f" and {more} more" if more > 0 else "")
        return f"{self.message}: {places}" if self.first else self.message


@dataclass(frozen=True)
class Evidence:
    """What is judged.

    Attributes:
        measures: From `measure`.
        treatment: From the preparers.
        train: Training rows.
        held_out: Held-out rows.
    """

    measures: Measures
    treatment: Treatment
    train: int
    held_out: int


def judge(evidence: Evidence, limits: Limits) -> list[Finding]:
    """Everything that is not as it should be, breaches first."""
    found = [
        *_start_tokens(evidence),
        *_one_class(evidence),
        *_stop_tokens(evidence, limits),
        *_truncated(evidence, limits),
        *_duplicates(evidence, limits),
        *_leaked(evidence, limits),
        *_left_out(evidence),
        *_balance(evidence),
    ]
    return sorted(found, key=lambda finding: finding.reason is None)


def refuse(findings: Sequence[Finding]) -> None:
    """End the run if a finding is a breach.

    Raises:
        TrainerError: With the reason of the first breach and the sentences of all.
    """
    breaches = [finding for finding in findings if finding.reason]
    reasons = [Reason(finding.reason) for finding in findings if finding.reason]
    if reasons:
        raise TrainerError(reasons[0], "; also, ".join(map(str, breaches)))


def _start_tokens(evidence: Evidence) -> Iterator[Finding]:
    measures = evidence.measures
    total, double = evidence.train, list(dict.fromkeys(measures.double_start))
    if double:
        message = f"{len(double)} of {total} rows begin with two start tokens"
        yield _finding("startTokens", message, double, total, 0.0, Reason.DOUBLE_START_TOKEN)
    if measures.starts[0] and measures.starts[1]:
        sequences = sum(measures.starts.values())
        message = f"{measures.starts[1]} of {sequences} sequences begin with a start token, not all"
        yield Finding(
            question="startTokens", message=message, rows=measures.starts[1], of=sequences
        )


def _one_class(evidence: Evidence) -> Iterator[Finding]:
    classes = evidence.measures.classes
    if len(classes) == 1:
        name, count = next(iter(classes.items()))
        message = f"all {count} labels of the training rows are {name!r}"
        yield Finding(
            question="classes",
            message=message,
            rows=evidence.train,
            of=evidence.train,
            reason=Reason.ONE_CLASS_ONLY,
        )


def _stop_tokens(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    measures = evidence.measures
    # The end of a row that was cut is gone with the rest; that is another question.
    cut = {row.origin for row in evidence.treatment.cut}
    whole, known = measures.asked - cut, measures.asked | cut
    asked = [origin for origin in measures.answered if origin in whole]
    missing = [origin for origin in measures.unstopped if origin in whole]
    if missing:
        message = f"{len(missing)} of {len(asked)} answers do not end with a stop token"
        limit, reason = limits.max_without_stop_token, Reason.STOP_TOKEN_MISSING
        yield _finding("stopTokens", message, missing, len(asked), limit, reason)
    open_end = [origin for origin in measures.unstopped if origin not in known]
    if open_end:
        message = f"{len(open_end)} texts without a prompt do not end with a stop token"
        yield _finding("stopTokens", message, open_end, len(measures.answered))


def _truncated(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    cut, total = evidence.treatment.cut, len(evidence.treatment.lengths)
    if cut:
        message = (
            f"{len(cut)} of {total} rows are too long and are cut; {sum(c.tokens for c in cut)} "
            f"tokens are lost, {sum(c.supervised for c in cut)} of them with loss"
        )
        origins = [each.origin for each in cut]
        limit, reason = limits.max_truncated, Reason.TOO_MANY_TRUNCATED
        yield _finding("truncated", message, origins, total, limit, reason)


def _duplicates(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    found, total = evidence.measures.duplicates, evidence.train
    if found:
        message = f"{len(found)} of {total} training rows equal an earlier one"
        origins = [f"{copy} (as {original})" for copy, original in found]
        limit, reason = limits.max_duplicates, Reason.TOO_MANY_DUPLICATES
        yield _finding("duplicates", message, origins, total, limit, reason)


def _leaked(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    found, total = evidence.measures.leaked, evidence.held_out
    if found:
        message = f"{len(found)} of {total} held-out rows stand among the training rows too"
        origins = [f"{copy} (as {original})" for copy, original in found]
        limit, reason = limits.max_leaked, Reason.EVALUATION_LEAKED
        yield _finding("leaked", message, origins, total, limit, reason)


def _left_out(evidence: Evidence) -> Iterator[Finding]:
    # The preparers have refused too many of them, because without rows there is nothing to count.
    total = len(evidence.treatment.lengths)
    for cause, words in _CAUSES.items():
        origins = [row.origin for row in evidence.treatment.left_out if row.cause == cause]
        if origins:
            message = f"{len(origins)} of {total} rows {words}"
            yield _finding("skipped", message, origins, total)


def _balance(evidence: Evidence) -> Iterator[Finding]:
    classes = evidence.measures.classes
    total = sum(classes.values())
    rare = [f"{name} ({count})" for name, count in classes.items() if count < _RARE * total]
    if rare:
        message = f"{len(rare)} of {len(classes)} classes have less than 1 % of the labels"
        yield _finding("classes", message, rare, len(classes))


def _finding(
    question: str,
    message: str,
    origins: Sequence[str],
    total: int,
    limit: float | None = None,
    reason: Reason | None = None,
) -> Finding:
    breached = limit is not None and len(origins) > limit * total
    return Finding(
        question=question,
        message=message,
        rows=len(origins),
        of=total,
        limit=limit,
        reason=reason if breached else None,
        first=list(origins[:NAMED]),
    )
