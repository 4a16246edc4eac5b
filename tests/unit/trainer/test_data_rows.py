"""Cutting a row keeps what its kind needs, and empties what is left without an answer."""

from finetune_trainer.data.rows import (
    IGNORED,
    ClassRow,
    JudgedRow,
    PreferenceRow,
    PromptRow,
    SequenceRow,
    TokenRow,
)

HERE = "t line 1"


def test_tokens_are_cut_at_the_end() -> None:
    row = TokenRow([1, 2, 3], [IGNORED, 2, 3], HERE)
    assert (row.length, row.supervised) == (3, 2)
    assert row.truncated(2) == TokenRow([1, 2], [IGNORED, 2], HERE)
    assert row.truncated(1).supervised == 0


def test_both_sides_of_a_sequence_are_cut_and_the_input_keeps_its_end() -> None:
    row = SequenceRow([1, 2, 3, 9], [4, 5, 9], HERE, closing=1)
    assert (row.length, row.supervised) == (4, 3)
    assert row.truncated(2) == SequenceRow([1, 9], [4, 5], HERE, closing=1)


def test_a_pair_keeps_its_prompt_and_the_beginning_of_both_answers() -> None:
    row = PreferenceRow([1, 2], [3, 4, 5], [6], HERE)
    assert (row.length, row.supervised) == (5, 4)
    assert row.truncated(3) == PreferenceRow([1, 2], [3], [6], HERE)
    assert row.truncated(2).supervised == 0
    assert not row.identical
    assert PreferenceRow([1], [2], [2], HERE).identical


def test_a_judged_answer_is_cut_after_its_prompt() -> None:
    row = JudgedRow([1, 2], [3, 4], desirable=True, origin=HERE)
    assert row.truncated(3) == JudgedRow([1, 2], [3], desirable=True, origin=HERE)
    assert row.truncated(1).supervised == 0


def test_a_prompt_keeps_its_end() -> None:
    row = PromptRow([1, 2, 3], {"answer": "x"}, HERE)
    assert row.truncated(2) == PromptRow([2, 3], {"answer": "x"}, HERE)


def test_a_classified_text_keeps_its_closing_tokens() -> None:
    row = ClassRow([1, 2, 3, 9], 0, HERE, [0, 0, 1, 1], closing=1)
    assert row.truncated(3) == ClassRow([1, 2, 9], 0, HERE, [0, 0, 1], closing=1)
    assert ClassRow([1, 2, 3], 0, HERE).truncated(2) == ClassRow([1, 2], 0, HERE)


def test_tagged_words_keep_their_closing_tokens() -> None:
    row = TokenRow([1, 2, 3, 9], [IGNORED, 0, 1, IGNORED], HERE, closing=1)
    assert row.truncated(3) == TokenRow([1, 2, 9], [IGNORED, 0, IGNORED], HERE, closing=1)


def test_a_pair_that_differs_only_after_the_cut_has_nothing_to_compare() -> None:
    row = PreferenceRow([1], [2, 3], [2, 4], HERE)
    assert row.supervised == 4
    assert row.truncated(2).supervised == 0
