from typing import Any

import pytest

from finetune_api.v1alpha1.data import Data
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.formats import to_examples
from finetune_trainer.data.load import Examples
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.read import Row
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.errors import TrainerError
from support.tiny_models import chats, pairs, tiny_tokenizer


def examples(rows: list[dict[str, Any]], loss: str = "Completions") -> Examples:
    data_format = "Messages" if "messages" in rows[0] else "PromptCompletion"
    given = [Row(row, f"t line {number}") for number, row in enumerate(rows, 1)]
    return Examples(to_examples(given, data_format), [], data_format, loss, [])


def run(
    rows: list[dict[str, Any]], *, seed: int = 1, limit: int | None = 512, **data: Any
) -> Prepared[TokenRow]:
    spec = Data.model_validate({"train": [{"source": "s3://b/t.jsonl"}], **data})
    return prepare(examples(rows), spec, tiny_tokenizer(), limit, seed)


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
    assert caught.value.reason is Reason.NO_SUPERVISED_TOKENS
    assert "20 lose them when cut to 8 tokens" in caught.value.message


def test_messages_need_a_template() -> None:
    spec = Data.model_validate({"train": [{"source": "s3://b/t.jsonl"}]})
    with pytest.raises(TrainerError, match="no chat template") as caught:
        prepare(examples(chats(2)), spec, tiny_tokenizer(None), None, 1)
    assert caught.value.reason is Reason.CHAT_TEMPLATE_ERROR
