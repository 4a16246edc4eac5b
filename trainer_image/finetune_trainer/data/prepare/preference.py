"""Preference rows: a prompt with a better and a worse answer, for Reward, DPO and their kin.

Both answers are tokenized together with their prompt, each as one text, so that the ids are those that
the model would meet; the prompt's ids are what both have in common before their answers begin.
"""

from collections.abc import Sequence
from itertools import chain

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.examples import Example, Preference
from finetune_trainer.data.finish import Findings, finish, first_origins, too_many
from finetune_trainer.data.given import Given
from finetune_trainer.data.mapped import at
from finetune_trainer.data.prepare.answers import answer, border, require_template
from finetune_trainer.data.prepare.kept import both_kept
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.render import render_answer
from finetune_trainer.data.rows import PreferenceRow, TokenRow
from finetune_trainer.data.treatment import LeftOut, Treatment
from finetune_trainer.errors import TrainerError


def preference_rows(given: Given) -> Prepared[PreferenceRow]:
    """Preference rows of all examples.

    A row that is too long keeps its prompt and the beginning of both answers; if the prompt alone fills
    the length, or the answers differ only after it, the row is left out. Pairs of equal answers are
    left out too. All are counted.

    Raises:
        TrainerError: IdenticalPairs or RowsTooLong if that is too many; ChatTemplateError.
    """
    train, evaluation = both_kept(given, PreferenceRow, _encode)
    different = [_different(given, rows) for rows in (train, evaluation)]
    same = [row for row in chain(train, evaluation) if row.identical]
    left_out = Treatment(
        lengths=tuple(row.length for row in same),
        left_out=tuple(LeftOut(row.origin, "Identical") for row in same),
    )
    return finish(given, *different, findings=Findings(left_out, pairs=True))


def _encode(given: Given, examples: Sequence[Example]) -> list[PreferenceRow]:
    pairs = [example for example in examples if isinstance(example, Preference)]
    require_template(given, [pair.prompt for pair in pairs])
    texts = chain.from_iterable(
        (
            render_answer(pair.prompt, text, pair.origin, given.tokenizer)
            for text in (pair.chosen, pair.rejected)
        )
        for pair in pairs
    )
    encoded = Encoder(given.tokenizer).encode(texts)
    return [_row(chosen, rejected) for chosen, rejected in zip(encoded, encoded, strict=True)]


def _row(chosen: TokenRow, rejected: TokenRow) -> PreferenceRow:
    end = min(border(chosen), border(rejected))
    # A token that reaches over the end of the prompt can differ; it then belongs to the answers.
    while chosen.input_ids[:end] != rejected.input_ids[:end]:
        end -= 1
    return PreferenceRow(
        chosen.input_ids[:end], answer(chosen, end), answer(rejected, end), chosen.origin
    )


def _different(given: Given, rows: Sequence[PreferenceRow]) -> Sequence[PreferenceRow]:
    same = [row for row in rows if row.identical]
    different = [index for index, row in enumerate(rows) if not row.identical]
    if too_many(given.data.limits.max_identical_pairs, len(same), len(rows)):
        message = (
            f"{len(same)} of {len(rows)} rows have the same tokens as chosen and rejected: "
            f"{first_origins(same)}"
        )
        raise TrainerError(Reason.IDENTICAL_PAIRS, message)
    return at(rows, different)
