"""From examples to token rows of a language model: counted, cut, split, drawn."""

from typing import Any

import pytest

from finetune_api.v1alpha1.data import Data, DataFormat
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.formats import to_examples
from finetune_trainer.data.given import Given
from finetune_trainer.data.load import Examples
from finetune_trainer.data.prepare import token_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.readers.row import Row
from finetune_trainer.data.rows import IGNORED, TokenRow
from finetune_trainer.errors import TrainerError
from support.tiny_models import chats, pairs, tiny_tokenizer


def examples(rows: list[dict[str, Any]], loss: str = "Completions") -> Examples:
    data_format: DataFormat = "PromptCompletion"
    for name, column in (("Messages", "messages"), ("Tokenized", "input_ids")):
        data_format = name if column in rows[0] else data_format  # type: ignore[assignment]
    given = [Row(row, f"t line {number}") for number, row in enumerate(rows, 1)]
    return Examples(to_examples(given, data_format), [], data_format, loss, [])


def given(rows: list[dict[str, Any]], *, seed: int = 1, limit: int = 512, **data: Any) -> Given:
    spec = Data.model_validate({"train": [{"source": "s3://b/t.jsonl"}], **data})
    return Given(examples(rows), spec, tiny_tokenizer(), limit, seed, vocabulary=400)


def run(rows: list[dict[str, Any]], **settings: Any) -> Prepared[TokenRow]:
    return token_rows(given(rows, **settings))


def test_counts() -> None:
    found = run(chats(20))
    assert (found.plan.rows, found.plan.evaluation_rows) == (20, 0)
    assert (found.plan.truncated_rows, found.plan.skipped_rows) == (0, 0)
    assert found.plan.supervised_tokens == sum(row.supervised for row in found.train)
    assert found.max_length % 8 == 0
    assert found.max_length >= max(len(row.input_ids) for row in found.train)


def test_split_is_drawn_by_the_seed() -> None:
    first, again, other = (run(pairs(50), seed=s, evaluation={"fraction": 0.2}) for s in (1, 1, 2))
    assert [row.origin for row in first.evaluation] == [row.origin for row in again.evaluation]
    assert [row.origin for row in first.evaluation] != [row.origin for row in other.evaluation]
    assert len(first.evaluation) == 10
    both = {row.origin for row in first.evaluation} | {row.origin for row in first.train}
    assert len(both) == 50


def test_fraction_that_leaves_nothing() -> None:
    with pytest.raises(TrainerError, match="leaves none to train on") as caught:
        run(pairs(1), evaluation={"fraction": 0.5})
    assert caught.value.reason is Reason.DATA_EMPTY


def test_cut_rows_keep_their_start_and_are_counted() -> None:
    whole = run(chats(20))
    length = max(len(row.input_ids) for row in whole.train) - 1
    cut = run(chats(20), maxLength=length)
    assert cut.plan.truncated_rows == sum(len(r.input_ids) > length for r in whole.train) > 0
    for before, after in zip(whole.train, cut.train, strict=True):
        assert after.input_ids == before.input_ids[:length]


def test_few_rows_without_loss_are_left_out_and_counted() -> None:
    found = run([*chats(19), {"messages": [{"role": "user", "content": "q"}]}])
    assert (found.plan.rows, found.plan.skipped_rows) == (19, 1)
    assert "t line 20" not in {row.origin for row in found.train}


def test_many_rows_without_loss_are_refused() -> None:
    with pytest.raises(TrainerError, match="20 of 20 rows") as caught:
        run(chats(20), maxLength=8)
    assert caught.value.reason is Reason.ROWS_TOO_LONG
    assert "20 lose them when cut to 8 tokens" in caught.value.message
    assert "t line 1, t line 2, t line 3, t line 4, t line 5 and 15 more" in caught.value.message


def test_messages_need_a_template() -> None:
    wanted = given(chats(2))
    wanted.tokenizer.chat_template = None
    with pytest.raises(TrainerError, match="no chat template") as caught:
        token_rows(wanted)
    assert caught.value.reason is Reason.CHAT_TEMPLATE_ERROR


def test_ready_tokens_are_used_as_they_are() -> None:
    rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}]
    found = run(rows)
    assert found.train == [
        TokenRow([5, 6, 7], [IGNORED, 6, 7], "t line 1"),
        TokenRow([5, 6, 7], [IGNORED, IGNORED, 7], "t line 2"),
    ]


def test_ready_labels_must_be_as_many() -> None:
    with pytest.raises(TrainerError, match="t line 1: 2 input_ids, but 1 labels"):
        run([{"input_ids": [1, 2], "labels": [2]}])


def weighted(weights: tuple[float, ...], *, seed: int = 1, **data: Any) -> Prepared[TokenRow]:
    """Ten rows a source."""
    base = given(pairs(10 * len(weights)), seed=seed)
    origins = [example.origin for example in base.examples.train]
    sources = {origin: index // 10 for index, origin in enumerate(origins)}
    train = [{"source": f"s3://b/{i}.jsonl", "weight": w} for i, w in enumerate(weights)]
    spec = Data.model_validate({"train": train, **data})
    mixed = Examples(base.examples.train, [], "PromptCompletion", "Completions", [], sources)
    return token_rows(Given(mixed, spec, base.tokenizer, 512, seed))


def drawn(found: Prepared[TokenRow]) -> list[list[int]]:
    """How often each row of each source stands in one pass."""
    origins = [row.origin for row in found.train]
    return [[origins.count(f"t line {10 * s + n}") for n in range(1, 11)] for s in (0, 1)]


@pytest.mark.parametrize(
    ("weights", "rows"), [((1, 1), (10, 10)), ((1, 2), (10, 20)), ((0.5, 0.2), (25, 10))]
)
def test_weights_are_relative(weights: tuple[float, float], rows: tuple[int, int]) -> None:
    found = weighted(weights)
    counts = drawn(found)
    assert tuple(sum(each) for each in counts) == rows
    assert all(max(each) - min(each) <= 1 for each in counts)
    assert found.plan.rows == sum(rows)
    notes = [r.value for r in found.resolved if r.field.startswith("data.train")]
    assert notes == ([] if weights == (1, 1) else [str(each) for each in rows])


def test_what_is_drawn_again_follows_the_seed() -> None:
    first, again, other = (weighted((1, 1.5), seed=seed) for seed in (1, 1, 2))
    assert first.train == again.train
    assert drawn(first) != drawn(other)


def test_repeated_rows_are_never_held_out() -> None:
    found = weighted((1, 3), evaluation={"fraction": 0.3})
    held_out = {row.origin for row in found.evaluation}
    assert len(held_out) == 6
    assert not held_out & {row.origin for row in found.train}


def test_weights_beyond_reason() -> None:
    with pytest.raises(TrainerError, match="at most 100 times") as caught:
        weighted((1, 1000))
    assert caught.value.reason is Reason.INVALID_SPEC
