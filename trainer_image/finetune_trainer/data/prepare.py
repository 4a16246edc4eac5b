"""From examples to token rows: render, encode, cut, sort out, split, and count it all.

Called by the recipes, with a tokenizer. What is cut or left out is counted and reported; if too much
has nothing to learn from, the run is refused before it costs anything.
"""

import logging
import random
from collections.abc import Sequence

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.data import Data
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Plan, Resolved
from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.formats import Conversation, Example
from finetune_trainer.data.length import choose_max_length
from finetune_trainer.data.load import Examples
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.render import render
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Tokenizer

logger = logging.getLogger(__name__)

MAX_SKIPPED = 0.10


def prepare(
    examples: Examples, data: Data, tokenizer: Tokenizer, model_limit: int | None, seed: int
) -> Prepared[TokenRow]:
    """Token rows of all examples.

    Args:
        examples: Checked examples.
        data: The block of the spec.
        tokenizer: With the chat template that is to be used.
        model_limit: Positions that the model has; None if it names none.
        seed: Draws the held-out rows.

    Raises:
        TrainerError: ChatTemplateError, NoSupervisedTokens, UnsupportedModel or InvalidSpec.
    """
    _require_template(examples.train, tokenizer)
    encoder = Encoder(tokenizer)
    train = _encode(examples.train, examples.loss, tokenizer, encoder)
    evaluation = _encode(examples.evaluation, examples.loss, tokenizer, encoder)
    lengths = [len(row.input_ids) for row in train]
    max_length, why = choose_max_length(data.max_length, lengths, model_limit)
    long = sum(len(row.input_ids) > max_length for row in (*train, *evaluation))
    kept = _usable(train, max_length, examples.loss)
    kept_evaluation = _usable(evaluation, max_length, examples.loss) if evaluation else []
    skipped = len(train) + len(evaluation) - len(kept) - len(kept_evaluation)
    if data.evaluation and data.evaluation.fraction:
        kept, kept_evaluation = _split(kept, data.evaluation.fraction, seed)
    resolved = _length_note(data, max_length, why, long)
    plan = Plan(
        rows=len(kept),
        evaluation_rows=len(kept_evaluation),
        supervised_tokens=sum(row.supervised for row in kept),
        truncated_rows=long,
        skipped_rows=skipped,
    )
    return Prepared(kept, kept_evaluation, max_length, plan, resolved)


def _require_template(examples: Sequence[Example], tokenizer: Tokenizer) -> None:
    if isinstance(examples[0], Conversation) and not tokenizer.chat_template:
        message = "the rows are messages, but the tokenizer has no chat template"
        raise TrainerError(Reason.CHAT_TEMPLATE_ERROR, message)


def _encode(
    examples: Sequence[Example], loss: str, tokenizer: Tokenizer, encoder: Encoder
) -> list[TokenRow]:
    return list(encoder.encode([render(example, loss, tokenizer) for example in examples]))


def _usable(rows: Sequence[TokenRow], max_length: int, loss: str) -> list[TokenRow]:
    cut = [row.truncated(max_length) for row in rows]
    kept = [row for row in cut if row.supervised]
    skipped = [(row, whole) for row, whole in zip(cut, rows, strict=True) if not row.supervised]
    for row, _ in skipped[:10]:
        logger.warning("%s has no token that carries loss and is left out", row.origin)
    if len(skipped) > MAX_SKIPPED * len(rows):
        raise _too_many_skipped(len(rows), max_length, loss, [whole for _, whole in skipped])
    return kept


def _too_many_skipped(
    total: int, max_length: int, loss: str, skipped: Sequence[TokenRow]
) -> TrainerError:
    cut = sum(row.supervised > 0 for row in skipped)
    message = (
        f"{len(skipped)} of {total} rows have no token that carries loss: {cut} lose them when cut "
        f"to {max_length} tokens, {len(skipped) - cut} have none for `data.loss: {loss}` "
        f"(first: {skipped[0].origin})"
    )
    return TrainerError(Reason.NO_SUPERVISED_TOKENS, message)


def _split(
    rows: Sequence[TokenRow], fraction: float, seed: int
) -> tuple[list[TokenRow], list[TokenRow]]:
    count = max(1, round(fraction * len(rows)))
    if count >= len(rows):
        message = (
            f"`data.evaluation.fraction` {fraction} of {len(rows)} rows leaves none to train on"
        )
        raise TrainerError(Reason.DATA_EMPTY, message, "Give more rows, or no evaluation.")
    held_out = set(random.Random(seed).sample(range(len(rows)), count))  # noqa: S311
    train = [row for index, row in enumerate(rows) if index not in held_out]
    return train, [rows[index] for index in sorted(held_out)]


def _length_note(data: Data, max_length: int, why: str, long: int) -> list[Resolved]:
    if data.max_length != AUTO:
        return []
    text = f"{why}; {long} rows are cut"
    return [Resolved(field="data.maxLength", value=str(max_length), why=text)]
