"""Prompt rows: what the model answers while it is trained, for PPO, GRPO, RLOO and distillation."""

import logging
from collections.abc import Sequence

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.examples import Example, Prompt
from finetune_trainer.data.finish import (
    Findings,
    assemble,
    first_origins,
    length_note,
    too_many,
)
from finetune_trainer.data.given import Given
from finetune_trainer.data.length import choose_max_length
from finetune_trainer.data.mapped import at, lengths
from finetune_trainer.data.prepare.answers import require_template
from finetune_trainer.data.prepare.kept import both_kept
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.render import render_prompt
from finetune_trainer.data.rows import PromptRow
from finetune_trainer.data.treatment import LeftOut, Treatment
from finetune_trainer.errors import TrainerError

logger = logging.getLogger(__name__)


def prompt_rows(given: Given) -> Prepared[PromptRow]:
    """Prompt rows of all examples, rendered up to where the model begins to write.

    `max_length` is that of prompt and answer together. A prompt that leaves no room for
    `given.answer_tokens` is left out and counted, never cut: half a question has another answer.

    Raises:
        TrainerError: RowsTooLong if that is too many; ChatTemplateError; InvalidSpec if the answer
            alone is longer than the length.
    """
    train, evaluation = both_kept(given, PromptRow, _encode)
    whole = [length + given.answer_tokens for length in lengths(train)]
    max_length, why = choose_max_length(given.data.max_length, whole, given.limit)
    room = max_length - given.answer_tokens
    if room < 1:
        message = (
            f"an answer of {given.answer_tokens} tokens leaves no room for a prompt within "
            f"`data.maxLength` {max_length}"
        )
        raise TrainerError(Reason.INVALID_SPEC, message, "Allow shorter answers.")
    kept, kept_evaluation = (_fitting(given, rows, room) for rows in (train, evaluation))
    done = _treatment(train, room) + _treatment(evaluation, room)
    skipped = len(done.left_out)
    note = f"{why}, of which {given.answer_tokens} are the answer's; {skipped} rows are left out"
    found = Findings(done, length_note(given, max_length, note))
    return assemble(given, kept, kept_evaluation, max_length, found)


def _encode(given: Given, examples: Sequence[Example]) -> list[PromptRow]:
    prompts = [example for example in examples if isinstance(example, Prompt)]
    require_template(given, [example.prompt for example in prompts])
    texts = (render_prompt(each.prompt, each.origin, given.tokenizer) for each in prompts)
    return [
        PromptRow(row.input_ids, example.columns, row.origin)
        for row, example in zip(Encoder(given.tokenizer).encode(texts), prompts, strict=True)
    ]


def _treatment(rows: Sequence[PromptRow], room: int) -> Treatment:
    long = tuple(LeftOut(row.origin, "TooLong") for row in _long(rows, room))
    return Treatment(lengths=tuple(lengths(rows)), left_out=long)


def _long(rows: Sequence[PromptRow], room: int) -> list[PromptRow]:
    return [rows[index] for index, length in enumerate(lengths(rows)) if length > room]


def _fitting(given: Given, rows: Sequence[PromptRow], room: int) -> Sequence[PromptRow]:
    long = _long(rows, room)
    for row in long[:10]:
        logger.warning("%s leaves no room for an answer and is left out", row.origin)
    if too_many(given.data.limits.max_skipped, len(long), len(rows)):
        message = (
            f"{len(long)} of {len(rows)} prompts are longer than {room} tokens, which is what "
            f"answers of {given.answer_tokens} tokens leave: {first_origins(long)}"
        )
        raise TrainerError(Reason.ROWS_TOO_LONG, message)
    return at(rows, [index for index, length in enumerate(lengths(rows)) if length <= room])
