"""From text to token rows: input ids, and labels that are -100 where no loss is taken.

Used by the preparers of language-model rows. Each row is tokenized once, as a whole; the tokenizer's
character offsets tell which tokens lie in a trained stretch. A token that straddles the beginning of
one belongs to the prompt. The last trained token is a turn terminator or the end-of-sequence token.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.render import Rendered, Span
from finetune_trainer.data.rows import IGNORED, TokenRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Tokenizer

_BATCH = 512
Item = TypeVar("Item")


class Encoder:
    """Tokenizes rendered rows with one tokenizer.

    Raises:
        TrainerError: UnsupportedModel if the tokenizer has no offsets or no end token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        require_offsets(tokenizer)
        if tokenizer.eos_token_id is None:
            message = (
                "the tokenizer has no end-of-sequence token, so the model could not learn to stop"
            )
            raise TrainerError(Reason.UNSUPPORTED_MODEL, message)
        self._tokenizer = tokenizer
        self._start, _ = wrapping(tokenizer)
        self._terminators = {*tokenizer.added_tokens_decoder, tokenizer.eos_token_id}

    def encode(self, rows: Iterable[Rendered]) -> Iterator[TokenRow]:
        """Token rows, in order; rows are taken as they are needed."""
        for batch in batched(rows, _BATCH):
            yield from self._batch(batch)

    def _batch(self, rows: Sequence[Rendered]) -> Iterator[TokenRow]:
        encoded = self._tokenizer(
            [row.text for row in rows], add_special_tokens=False, return_offsets_mapping=True
        )
        for row, ids, offsets in zip(
            rows, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            yield self._finish(row, list(ids), _labels(ids, offsets, row.spans))

    def _finish(self, row: Rendered, ids: list[int], labels: list[int]) -> TokenRow:
        if not row.templated and ids[: len(self._start)] != self._start:
            ids = [*self._start, *ids]
            labels = [IGNORED] * len(self._start) + labels
        self._add_end(ids, labels, row)
        self._refuse_double_start(ids, row)
        if labels:
            # Nothing comes before the first token that could predict it.
            labels[0] = IGNORED
        return TokenRow(ids, labels, row.origin)

    def _add_end(self, ids: list[int], labels: list[int], row: Rendered) -> None:
        if not row.spans:
            return
        last = max((i for i, label in enumerate(labels) if label != IGNORED), default=len(ids) - 1)
        if last >= 0 and ids[last] in self._terminators and labels[last] != IGNORED:
            return
        # After the last trained turn comes nothing that the model should know about.
        del ids[last + 1 :], labels[last + 1 :]
        ids.append(self._tokenizer.eos_token_id)
        labels.append(self._tokenizer.eos_token_id)

    def _refuse_double_start(self, ids: list[int], row: Rendered) -> None:
        start = self._tokenizer.bos_token_id
        if start is not None and ids[:2] == [start, start]:
            message = f"{row.origin}: the row begins with two {self._tokenizer.bos_token} tokens"
            raise TrainerError(Reason.DOUBLE_START_TOKEN, message)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, in order; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def require_offsets(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that cannot say where in the text a token stands."""
    if not getattr(tokenizer, "is_fast", False):
        message = "the tokenizer does not tell character positions (it is not a fast one)"
        hint = "Save the model with a `tokenizer.json`."
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message, hint)


def wrapping(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after plain text: mostly one token or none."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    marked = list(tokenizer("a")["input_ids"])
    for first in range(len(marked) - len(plain) + 1):
        if marked[first : first + len(plain)] == plain:
            return marked[:first], marked[first + len(plain) :]
    return [], []


def _labels(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence[Span]
) -> list[int]:
    labels = [IGNORED] * len(ids)
    for span in spans:
        for index, (start, end) in enumerate(offsets):
            if span.start <= start < span.end and end > start:
                labels[index] = ids[index]
    return labels
