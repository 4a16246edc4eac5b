"""Text rows for fill-mask: long documents in several chunks, so that nothing is cut away.

Labels name the tokens that may be hidden; the collator draws which ones are, anew in each pass.
"""

from collections.abc import Iterator, Sequence

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.data.encode import batched, wrapping
from finetune_trainer.data.examples import Document, Example, Tokenized
from finetune_trainer.data.finish import Findings, finish
from finetune_trainer.data.given import Given
from finetune_trainer.data.length import choose_max_length
from finetune_trainer.data.mapped import MappedRows, lengths
from finetune_trainer.data.prepare.kept import both_kept
from finetune_trainer.data.prepare.tokens import require_known
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import IGNORED, TokenRow
from finetune_trainer.errors import TrainerError

_BATCH = 512


def masked_rows(given: Given) -> Prepared[TokenRow]:
    """Token rows of all texts, in chunks of at most the longest length.

    Raises:
        TrainerError: UnsupportedModel if the tokenizer has no mask token; TokenOutOfRange.
    """
    if given.tokenizer.mask_token_id is None:
        message = "the tokenizer has no mask token"
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message, "Use a masked language model.")
    documents = both_kept(given, TokenRow, _encode)
    around = sum(len(part) for part in wrapping(given.tokenizer))
    whole = [length + around for length in lengths(documents[0])]
    max_length, _ = choose_max_length(given.data.max_length, whole, given.limit)
    train, evaluation = (_in_chunks(given, rows, max_length) for rows in documents)
    note = Resolved(
        field="data.chunks",
        value=str(len(train)),
        why=f"{len(documents[0])} training texts, in pieces of at most {max_length} tokens",
    )
    return finish(given, train, evaluation, findings=Findings(resolved=[note]))


def _encode(given: Given, examples: Sequence[Example]) -> list[TokenRow]:
    rows = []
    documents = [example for example in examples if isinstance(example, Document)]
    for batch in batched(documents, _BATCH):
        texts = [document.text for document in batch]
        encoded = given.tokenizer(texts, add_special_tokens=False)["input_ids"]
        for ids, document in zip(encoded, batch, strict=True):
            rows.append(TokenRow(list(ids), list(ids), document.origin))
    tokenized = [example for example in examples if isinstance(example, Tokenized)]
    return rows or [_as_given(given, example) for example in tokenized]


def _as_given(given: Given, example: Tokenized) -> TokenRow:
    require_known(given, example.input_ids, "input_ids", example.origin)
    before, after = wrapping(given.tokenizer)
    ids = list(example.input_ids)
    # The chunks get their own special tokens.
    if ids[: len(before)] == before and ids[len(ids) - len(after) :] == after:
        ids = ids[len(before) : len(ids) - len(after)]
    return TokenRow(ids, ids, example.origin)


def _in_chunks(given: Given, rows: Sequence[TokenRow], max_length: int) -> Sequence[TokenRow]:
    def made() -> Iterator[TokenRow]:
        return _chunks(given, rows, max_length)

    if not (given.store and isinstance(rows, MappedRows)):
        return list(made())
    name, how = f"{rows.path.stem}-chunks", f"pieces of {max_length} tokens"
    return given.store.derived(name, TokenRow, rows, how, made)


def _chunks(given: Given, rows: Sequence[TokenRow], max_length: int) -> Iterator[TokenRow]:
    before, after = wrapping(given.tokenizer)
    size = max_length - len(before) - len(after)
    hidden_before, hidden_after = [IGNORED] * len(before), [IGNORED] * len(after)
    for row in rows:
        for first in range(0, max(1, row.length), size):
            ids = row.input_ids[first : first + size]
            yield TokenRow(
                [*before, *ids, *after], [*hidden_before, *ids, *hidden_after], row.origin
            )
