"""Rows of token ids that are made while training goes on. Used by the preparers that can stream.

What is cut or left out on the way is counted and logged; if too much has nothing to learn from, the run
ends there, as it would have before training without streaming.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.data.encode import batched
from finetune_trainer.data.examples import Example
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import DataRow
from finetune_trainer.data.stream import Stream
from finetune_trainer.errors import TrainerError

logger = logging.getLogger(__name__)

_BATCH = 64
_ENOUGH = 100

R = TypeVar("R", bound=DataRow)
Encode = Callable[[Given, Sequence[Example]], list[R]]


def streamed(given: Given, first: Prepared[R], encode: Encode[R]) -> Prepared[R]:
    """The rows that were looked at, with the stream of all rows beside them.

    Args:
        given: What the preparer was given, with a stream.
        first: What it made of the first rows.
        encode: Makes rows of examples, uncut.
    """
    stream = given.examples.stream
    if stream is None:
        return first
    note = Resolved(
        field="data.streaming",
        value="true",
        why=f"counts, checks and the longest length are those of the first {len(first.train)} rows",
    )

    def rows() -> Iterator[R]:
        share = given.data.limits.max_skipped
        return _cut(_encoded(given, stream, encode), first.max_length, share)

    return replace(first, resolved=[*first.resolved, note], stream=rows)


def _encoded(given: Given, stream: Stream, encode: Encode[R]) -> Iterator[R]:
    for batch in batched(stream.examples(), _BATCH):
        yield from encode(given, batch)


def _cut(rows: Iterator[R], max_length: int, share: float) -> Iterator[R]:
    skipped = 0
    for seen, whole in enumerate(rows, start=1):
        row = whole.truncated(max_length)
        if row.supervised:
            yield row
            continue
        skipped += 1
        logger.warning("%s has no token that carries loss and is left out", row.origin)
        if seen >= _ENOUGH and skipped > share * seen:
            message = (
                f"{skipped} of the first {seen} rows have no token that carries loss within "
                f"{max_length} tokens; the last is {row.origin}"
            )
            raise TrainerError(Reason.NO_SUPERVISED_TOKENS, message)
