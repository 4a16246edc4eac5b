"""Judged rows: a prompt with one answer and a verdict, for KTO."""

from collections.abc import Sequence

from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.examples import Example, Judged
from finetune_trainer.data.finish import finish
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepare.answers import answer, border, require_template
from finetune_trainer.data.prepare.kept import both_kept
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.render import render_answer
from finetune_trainer.data.rows import JudgedRow


def judged_rows(given: Given) -> Prepared[JudgedRow]:
    """Judged rows of all examples; one that is too long keeps the beginning of its answer.

    Raises:
        TrainerError: RowsTooLong if too many prompts fill the length alone; ChatTemplateError.
    """
    return finish(given, *both_kept(given, JudgedRow, _encode))


def _encode(given: Given, examples: Sequence[Example]) -> list[JudgedRow]:
    judged = [example for example in examples if isinstance(example, Judged)]
    require_template(given, [example.prompt for example in judged])
    texts = (render_answer(e.prompt, e.completion, e.origin, given.tokenizer) for e in judged)
    rows = []
    for row, example in zip(Encoder(given.tokenizer).encode(texts), judged, strict=True):
        end = border(row)
        prompt, written = row.input_ids[:end], answer(row, end)
        rows.append(JudgedRow(prompt, written, example.desirable, row.origin))
    return rows
