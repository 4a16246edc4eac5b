"""Answers to a few held-out prompts, before and after training, for people to read: `samples.jsonl`.

Called by `recipes.course`. Which prompts are asked follows from the rows alone; answers are greedy,
so the same model gives the same ones. Nothing is measured here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.answers import Sampling, answer
from finetune_trainer.data.rows import (
    IGNORED,
    DataRow,
    JudgedRow,
    PreferenceRow,
    PromptRow,
    SequenceRow,
    TokenRow,
)
from finetune_trainer.foreign import Model, Tokenizer

SAMPLES = "samples.jsonl"
COUNT = 4
LONGEST_PROMPT = 512
# Of a text without a prompt, so much is given and the rest is asked for.
OPENING = 32
SAMPLING = Sampling(max_new_tokens=64, seconds=60.0)


@dataclass(frozen=True)
class Question:
    """A prompt, and the answer that the data gives.

    Attributes:
        prompt: Token ids, at least one.
        reference: Token ids; empty if the data gives none.
    """

    prompt: tuple[int, ...]
    reference: tuple[int, ...]


def choose(rows: Sequence[DataRow], count: int = COUNT) -> list[Question]:
    """Questions from rows that lie evenly among all; those with too long a prompt are passed over.

    Args:
        rows: Held-out rows of any kind; those of classes ask nothing.
        count: How many at most.
    """
    found = [each for each in map(question, rows) if 0 < len(each.prompt) <= LONGEST_PROMPT]
    step = max(1, len(found) // count)
    return found[::step][:count]


def question(row: DataRow) -> Question:
    """The question that a row asks."""
    if isinstance(row, PreferenceRow):
        return Question(tuple(row.prompt_ids), tuple(row.chosen_ids))
    if isinstance(row, JudgedRow):
        return Question(tuple(row.prompt_ids), tuple(row.completion_ids))
    if isinstance(row, PromptRow):
        return Question(tuple(row.prompt_ids), ())
    if isinstance(row, SequenceRow):
        return Question(tuple(row.input_ids), tuple(row.labels))
    if isinstance(row, TokenRow):
        return _of_tokens(row)
    # Classes are not generated.
    return Question((), ())


def _of_tokens(row: TokenRow) -> Question:
    trained = [place for place, label in enumerate(row.labels) if label != IGNORED]
    first = trained[0] if trained else 0
    if first <= 1:
        first = min(OPENING, (len(row.input_ids) + 1) // 2)
    return Question(tuple(row.input_ids[:first]), tuple(row.input_ids[first:]))


def ask(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    sampling: Sampling = SAMPLING,
) -> list[str]:
    """The model's answers, in order; the model is left in the mode that it was in.

    Args:
        model: Any that generates.
        tokenizer: With a pad token.
        questions: From `choose`.
        sampling: Bounds the answers in tokens and in time.
    """
    if not questions:
        return []
    training = model.training
    model.eval()
    try:
        written = answer(model, tokenizer, [list(each.prompt) for each in questions], sampling)
    finally:
        model.train(training)
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in written]


def write(
    folder: Path,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    before: Sequence[str],
    after: Sequence[str],
) -> None:
    """Write the answers to the output folder, one JSON object a question; no file without any."""
    if not questions:
        return
    lines = []
    for each, old, new in zip(questions, before, after, strict=True):
        texts = {
            "prompt": tokenizer.decode(each.prompt),
            "reference": tokenizer.decode(each.reference, skip_special_tokens=True),
            "before": old,
            "after": new,
        }
        lines.append(json.dumps(texts, ensure_ascii=False) + "\n")
    (folder / SAMPLES).write_text("".join(lines), "utf-8")
