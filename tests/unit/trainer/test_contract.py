import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.data import Data
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Plan
from finetune_trainer.data.contract import Contract, Subject, draw_up
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import (
    ClassRow,
    JudgedRow,
    PreferenceRow,
    PromptRow,
    SequenceRow,
    TokenRow,
)
from finetune_trainer.data.treatment import LeftOut, Treatment, treatment
from finetune_trainer.errors import TrainerError

START, STOP, PAD = 1, 2, 3
NO_LOSS = -100


class Letters:
    """A tokenizer of three special tokens and the letters from number 97."""

    bos_token_id, eos_token_id, pad_token_id, unk_token_id = START, STOP, PAD, None
    added_tokens_decoder = {START: "<s>", STOP: "</s>", PAD: "<pad>", 4: "<turn>"}

    def decode(self, ids: list[int], **_options: Any) -> str:
        return "".join(self.added_tokens_decoder.get(each) or chr(each) for each in ids)


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def row(number: int, prompt: str, answer: str, end: int | None = STOP) -> TokenRow:
    written = ids(answer) + ([end] if end is not None else [])
    before = [START, *ids(prompt)]
    return TokenRow(before + written, [NO_LOSS] * len(before) + written, f"a line {number}")


def contract(
    rows: list[Any],
    held_out: list[Any] | None = None,
    *,
    task: Task = "text-generation",
    names: tuple[str, ...] = (),
    became: Treatment | None = None,
    **data: Any,
) -> Contract:
    spec = Data.model_validate({"train": [{"source": "s3://b/a.jsonl"}], **data})
    plan = Plan(rows=len(rows))
    prepared = Prepared(rows, held_out or [], 64, plan, [], names, became or Treatment())
    return draw_up(prepared, Subject(spec, task, Letters()))


def refusal(found: Contract) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        found.refuse_breaches()
    return caught.value


def good(count: int) -> list[TokenRow]:
    return [row(number, f"question {number} ", "yes") for number in range(1, count + 1)]


def test_good_rows_have_nothing_to_tell() -> None:
    found = contract(good(10), good(30)[20:])
    found.refuse_breaches()
    assert found.content.findings == []
    assert found.content.stop_token_share == 1
    assert found.content.start_tokens == {"0": 0, "1": 10, "2+": 0}
    plan = found.plan
    assert (plan.duplicate_rows, plan.leaked_rows, plan.rows_without_stop_token) == (0, 0, 0)
    # `<s>`, `question `, one or two digits, a space, `yes`, `</s>`.
    assert plan.longest_row == 1 + 9 + 2 + 1 + 3 + 1
    assert found.content.tokens == 9 * 16 + 17


def test_lengths_before_the_cut() -> None:
    whole = [row(number, "p" * length, "yes") for number, length in enumerate((5, 20, 90, 200), 1)]
    cut = [each.truncated(64) for each in whole]
    found = contract(cut[:2], became=treatment(whole, cut))
    # One start token, three letters and the end around each prompt: 10, 25, 95 and 205 tokens.
    counted = [(bucket.up_to, bucket.rows) for bucket in found.content.lengths]
    assert counted == [(16, 1), (32, 1), (64, 0), (128, 1), (256, 1)]
    assert found.content.tokens_lost == 95 - 64 + 205 - 64
    assert found.content.supervised_tokens_lost == 4 + 4
    assert found.plan.longest_row == 205
    messages = [str(finding) for finding in found.content.findings]
    assert "2 of 4 rows are too long and are cut" in messages[0]
    assert "a line 3, a line 4" in messages[0]
    assert "lose all that they teach" in messages[1]
    found.refuse_breaches()


def test_too_many_cut_rows_are_refused_by_the_limit() -> None:
    whole = [row(number, "p" * 9, "y" * number) for number in range(1, 11)]
    cut = [each.truncated(16) for each in whole]
    # Rows 6 to 10 are longer than 16: five of ten.
    became = treatment(whole, cut)
    contract(cut, became=became).refuse_breaches()
    error = refusal(contract(cut, became=became, limits={"maxTruncated": 0.4}))
    assert error.reason is Reason.TOO_MANY_TRUNCATED
    assert "5 of 10 rows" in error.message
    assert "a line 6, a line 7, a line 8, a line 9, a line 10" in error.message


def test_answers_that_do_not_end() -> None:
    rows = [*good(8), *(row(number, "q ", f"no end {number}", None) for number in range(9, 17))]
    error = refusal(contract(rows))
    assert error.reason is Reason.STOP_TOKEN_MISSING
    assert "8 of 16 answers" in error.message
    assert "a line 9, a line 10, a line 11, a line 12, a line 13 and 3 more" in error.message
    assert contract(rows).plan.rows_without_stop_token == 8
    contract(rows, limits={"maxWithoutStopToken": 0.5}).refuse_breaches()


def test_a_turn_may_end_with_another_token_than_the_end_of_the_sequence() -> None:
    assert contract([row(1, "q ", "a", end=4)]).plan.rows_without_stop_token == 0
    assert contract([row(1, "q ", "a", end=PAD)]).plan.rows_without_stop_token == 1


def test_pieces_of_text_need_no_end() -> None:
    pieces = [
        TokenRow(ids(text), [NO_LOSS, *ids(text)[1:]], f"a line {number}")
        for number, text in enumerate(("once upon", "a time"), 1)
    ]
    found = contract(pieces)
    found.refuse_breaches()
    assert found.plan.rows_without_stop_token == 2
    assert "without a prompt" in found.content.findings[0].message


def test_a_cut_row_is_not_blamed_for_its_end() -> None:
    whole = good(2)
    cut = [whole[0], whole[1].truncated(14)]
    found = contract(cut, became=treatment(whole, cut))
    found.refuse_breaches()
    assert found.plan.rows_without_stop_token == 1
    assert [finding.question for finding in found.content.findings] == ["truncated"]


def test_two_start_tokens() -> None:
    double = TokenRow([START, START, 97, STOP], [NO_LOSS, NO_LOSS, 97, STOP], "a line 4")
    found = contract([*good(3), double])
    error = refusal(found)
    assert error.reason is Reason.DOUBLE_START_TOKEN
    assert "1 of 4 rows begin with two start tokens: a line 4" in error.message
    assert found.content.start_tokens == {"0": 0, "1": 3, "2+": 1}


def test_duplicates_and_leaks_name_both_places() -> None:
    rows = good(4)
    copies = [row(9, "question 1 ", "yes"), row(10, "question 1 ", "no")]
    found = contract([*rows, *copies], [row(20, "question 3 ", "yes"), row(21, "new", "yes")])
    assert (found.plan.duplicate_rows, found.plan.leaked_rows) == (1, 1)
    assert [str(finding) for finding in found.content.findings] == [
        "1 of 6 training rows equal an earlier one: a line 9 (as a line 1)",
        "1 of 2 held-out rows stand among the training rows too: a line 20 (as a line 3)",
    ]
    found.refuse_breaches()
    few = contract([*rows, *copies], limits={"maxDuplicates": 0.1})
    assert refusal(few).reason is Reason.TOO_MANY_DUPLICATES
    leaky = contract(rows, rows)
    assert refusal(leaky).reason is Reason.EVALUATION_LEAKED


def test_rows_drawn_again_by_weight_are_no_duplicates() -> None:
    assert contract([*good(3), *good(3)]).plan.duplicate_rows == 0


def test_several_breaches_are_all_told() -> None:
    rows = [row(number, "q ", "same", None) for number in range(1, 6)]
    error = refusal(contract(rows, limits={"maxDuplicates": 0.5}))
    assert error.reason is Reason.STOP_TOKEN_MISSING
    assert "; also, 4 of 5 training rows equal an earlier one" in error.message


def preference(number: int, end: int = STOP) -> PreferenceRow:
    chosen, rejected = [*ids("good"), STOP], [*ids("bad"), end]
    return PreferenceRow([START, *ids(f"q{number} ")], chosen, rejected, f"a line {number}")


def test_both_answers_of_a_pair_must_end() -> None:
    found = contract([preference(1), preference(2, end=97)], publishedSamples=1)
    assert found.plan.rows_without_stop_token == 1
    assert "chosen, 9 tokens:\n\n```text\n<s>q1 ⟦good</s>⟧\n```" in found.page
    assert "rejected, 8 tokens:\n\n```text\n<s>q1 ⟦bad</s>⟧\n```" in found.page
    assert refusal(found).reason is Reason.STOP_TOKEN_MISSING


def test_pairs_that_were_left_out_are_told() -> None:
    became = Treatment((9, 9, 9), left_out=(LeftOut("a line 3", "Identical"),))
    found = contract([preference(1), preference(2)], became=became)
    assert str(found.content.findings[0]) == (
        "1 of 3 rows have the same answer twice, and are left out: a line 3"
    )


def judged(number: int, *, desirable: bool) -> JudgedRow:
    return JudgedRow([START, 113], [*ids(f"a{number}"), STOP], desirable, f"a line {number}")


def test_verdicts_are_classes() -> None:
    both = [judged(number, desirable=number < 3) for number in range(4)]
    found = contract(both)
    found.refuse_breaches()
    assert found.plan.class_counts == {"desirable": 3, "undesirable": 1}
    error = refusal(contract([judged(number, desirable=True) for number in range(4)]))
    assert error.reason is Reason.ONE_CLASS_ONLY
    assert "all 4 labels of the training rows are 'desirable'" in error.message


def test_classes_and_how_rare_they_are() -> None:
    rows = [ClassRow(ids(f"t{number}"), number == 7, f"a line {number}") for number in range(150)]
    found = contract(rows, task="text-classification", names=("ham", "spam"), publishedSamples=1)
    found.refuse_breaches()
    assert found.plan.class_counts == {"ham": 149, "spam": 1}
    assert "1 of 2 classes have less than 1 % of the labels: spam (1)" in str(
        found.content.findings[0]
    )
    assert found.plan.rows_without_stop_token is None
    assert found.content.stop_token_share is None
    assert "class ham, 2 tokens" in found.page


def test_many_classes_are_cut_to_the_most_frequent_in_the_status() -> None:
    rows = [
        ClassRow(ids(f"t{a} {b}"), a, f"a line {a} {b}") for a in range(40) for b in range(a + 1)
    ]
    names = tuple(f"class-{number}" for number in range(40))
    found = contract(rows, task="text-classification", names=names)
    assert found.plan.class_counts is not None
    assert len(found.plan.class_counts) == 32
    assert next(iter(found.plan.class_counts)) == "class-39"
    assert found.content.classes is not None
    assert len(found.content.classes) == 40


def test_tags_are_counted_and_shown_by_name() -> None:
    tagged = TokenRow([START, *ids("ab"), STOP], [NO_LOSS, 1, 0, NO_LOSS], "a line 1")
    found = contract([tagged], task="token-classification", names=("O", "NAME"))
    assert found.plan.class_counts == {"NAME": 1, "O": 1}
    assert "<s>⟦a⟧(NAME)⟦b⟧(O)</s>" in found.page
    assert found.plan.rows_without_stop_token is None


def test_prompts_and_sequences() -> None:
    rows = [PromptRow([START, 97], {"answer": number}, f"a line {number}") for number in (1, 2, 2)]
    found = contract(rows)
    found.refuse_breaches()
    # The same question with another expected answer teaches something else.
    assert found.plan.duplicate_rows == 0
    pair = SequenceRow([*ids("in"), STOP], [*ids("out"), STOP], "a line 1")
    found = contract([pair], task="text2text-generation")
    assert "input, 3 tokens:\n\n```text\nin</s>\n```" in found.page
    assert "output, 4 tokens:\n\n```text\n⟦out</s>⟧\n```" in found.page
    assert found.plan.rows_without_stop_token == 0


def test_samples_are_the_shortest_the_middle_and_the_longest() -> None:
    rows = [row(number, "q" * number, "a") for number in (5, 1, 4, 2, 3)]
    pages = {contract(rows).page for _ in range(2)}
    assert len(pages) == 1
    titles = [line for line in pages.pop().splitlines() if line.startswith("## ")]
    assert titles == ["## a line 1", "## a line 3", "## a line 5"]
    assert contract(rows, publishedSamples=0).page == ""


def test_sample_text_cannot_leave_its_block() -> None:
    page = contract([row(1, "```\n# Not a title\n````", "a")]).page
    assert "\n`````text\n<s>```\n# Not a title\n````⟦a</s>⟧\n`````\n" in page


def test_long_samples_show_both_ends() -> None:
    page = contract([row(1, "q" * 3000, "a" * 9)]).page
    assert "[… 2011 tokens …]" in page
    assert page.rstrip().endswith("⟦aaaaaaaaa</s>⟧\n```")


def test_both_files_are_written(tmp_path: Path) -> None:
    contract([*good(3), row(7, "question 1 ", "yes")]).publish(tmp_path / "output")
    written = json.loads((tmp_path / "output" / "data_contract.json").read_text())
    assert written["kind"] == "DataContract"
    assert written["plan"] == {
        "rows": 4,
        "duplicateRows": 1,
        "leakedRows": 0,
        "rowsWithoutStopToken": 0,
        "longestRow": 16,
    }
    assert written["findings"][0]["first"] == ["a line 7 (as a line 1)"]
    assert "⟦yes</s>⟧" in (tmp_path / "output" / "data_samples.md").read_text()
