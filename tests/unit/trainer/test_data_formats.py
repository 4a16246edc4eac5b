"""Every format is recognised by its columns, as far as the job can learn from it, and taken apart."""

from typing import Any

import pytest

from finetune_api.v1alpha1.data import accepted_formats
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.columns import rename
from finetune_trainer.data.examples import (
    Conversation,
    Document,
    Judged,
    Labelled,
    Pair,
    Preference,
    Prompt,
    Tagged,
    Tokenized,
)
from finetune_trainer.data.formats import recognise, to_examples
from finetune_trainer.data.readers.row import Row
from finetune_trainer.errors import TrainerError

HERE = "t line 1"
USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
WORSE, SYSTEM = {"role": "assistant", "content": "b"}, {"role": "system", "content": "s"}


def rows(*columns: dict[str, Any]) -> list[Row]:
    return [Row(each, f"t line {number}") for number, each in enumerate(columns, 1)]


def found(row: dict[str, Any], method: str = "SFT", task: Any = "text-generation") -> Any:
    given = rows(row)
    accepted = accepted_formats(method, task)
    data_format = recognise(given, "Auto", accepted, f"{method} of {task}")
    assert recognise(given, data_format, accepted, "") == data_format
    [example] = to_examples(given, data_format)
    return example


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, BOT], "id": 1}, Conversation((USER, BOT), None, HERE)),
        (
            {"messages": [{**USER, "tool_calls": None}, {**BOT, "name": None}]},
            Conversation((USER, BOT), None, HERE),
        ),
        ({"prompt": "q", "completion": "a"}, Pair("q", "a", HERE)),
        ({"prompt": [SYSTEM, USER], "completion": [BOT]}, Conversation((SYSTEM, USER, BOT), 2, HERE)),
        ({"text": "x"}, Document("x", HERE)),
        ({"instruction": "q", "input": "", "output": "a"}, Conversation((USER, BOT), 1, HERE)),
        (
            {"instruction": "Add.", "input": "1 2", "output": "a", "system": "s"},
            Conversation((SYSTEM, {"role": "user", "content": "Add.\n\n1 2"}, BOT), 2, HERE),
        ),
        (
            {
                "system": "s",
                "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
            },
            Conversation((SYSTEM, USER, BOT), None, HERE),
        ),
        ({"conversations": [USER, BOT]}, Conversation((USER, BOT), None, HERE)),
        ({"input_ids": [1, 2]}, Tokenized((1, 2), None, HERE)),
        (
            {"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0], "labels": [-100, 2, -100]},
            Tokenized((1, 2), (-100, 2), HERE),
        ),
        (
            {"input_ids": [0, 1, 2], "attention_mask": [0, 1, 1]},
            Tokenized((1, 2), None, HERE),
        ),
    ],
)  # fmt: skip
def test_what_language_models_learn_from(row: dict[str, Any], expected: object) -> None:
    assert found(row) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, ("q", "a", "b")),
        (
            {"prompt": [USER], "chosen": [BOT], "rejected": [WORSE]},
            ((USER,), (BOT,), (WORSE,)),
        ),
        ({"prompt": "q", "chosen": [BOT], "rejected": [WORSE]}, ((USER,), (BOT,), (WORSE,))),
        ({"prompt": "q", "chosen": [USER, BOT], "rejected": [USER, WORSE]}, ((USER,), (BOT,), (WORSE,))),
        (
            {"chosen": [SYSTEM, USER, BOT], "rejected": [SYSTEM, USER, WORSE], "score": 1},
            ((SYSTEM, USER), (BOT,), (WORSE,)),
        ),
        ({"chosen": [USER, BOT], "rejected": [USER, BOT]}, ((USER,), (BOT,), (BOT,))),
        ({"chosen": "Q: why? A: a cat", "rejected": "Q: why? A: a dog"}, ("Q: why? A: a", " cat", " dog")),
        ({"chosen": "Q: why? A: cat", "rejected": "Q: why? A: car"}, ("Q: why? A:", " cat", " car")),
    ],
)  # fmt: skip
def test_pairs(row: dict[str, Any], expected: tuple[Any, Any, Any]) -> None:
    assert found(row, "DPO") == Preference(*expected, HERE)


@pytest.mark.parametrize(
    ("label", "desirable"),
    [(True, True), (0, False), (1.0, True), ("False", False), ("1", True)],
)
def test_verdicts(label: object, desirable: bool) -> None:
    row = {"prompt": "q", "completion": "a", "label": label}
    assert found(row, "KTO") == Judged("q", "a", desirable, HERE)
    chat = {"prompt": [USER], "completion": [BOT], "label": label}
    assert found(chat, "KTO") == Judged((USER,), (BOT,), desirable, HERE)


@pytest.mark.parametrize("prompt", ["q", [SYSTEM, USER]])
def test_prompts_keep_all_columns(prompt: Any) -> None:
    row = {"prompt": prompt, "completion": "a", "answer": 4}
    expected = prompt if isinstance(prompt, str) else tuple(prompt)
    assert found(row, "GRPO") == Prompt(expected, row, HERE)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "x", "label": "good"}, Labelled("x", None, "good", HERE)),
        ({"text": "x", "label": 3, "text_pair": "y"}, Labelled("x", "y", 3, HERE)),
        ({"text": "x", "label": True}, Labelled("x", None, "true", HERE)),
        ({"tokens": ["a", "b"], "ner_tags": [0, 1]}, Tagged(("a", "b"), (0, 1), HERE)),
        ({"tokens": ["a"], "tags": ["O"], "id": 1}, Tagged(("a",), ("O",), HERE)),
        ({"tokens": ["a"], "labels": ["O"]}, Tagged(("a",), ("O",), HERE)),
    ],
)
def test_labels(row: dict[str, Any], expected: object) -> None:
    assert found(row, task="text-classification") == expected


def test_labelled_text_is_not_taken_for_text_in_silence() -> None:
    row = {"text": "x", "label": 1}
    with pytest.raises(TrainerError, match="is Labelled, but SFT of text-generation") as caught:
        found(row)
    assert "declare `data.format: Text`" in (caught.value.hint or "")
    accepted = accepted_formats("SFT", "text-generation")
    assert recognise(rows(row), "Text", accepted, "") == "Text"


def test_two_formats_in_one_row() -> None:
    with pytest.raises(TrainerError, match=r"fit several formats \(Messages, Text\)") as caught:
        found({"text": "x", "messages": [USER, BOT]})
    assert caught.value.reason is Reason.DATA_FORMAT_UNKNOWN


@pytest.mark.parametrize(
    ("row", "method", "message"),
    [
        ({"messages": []}, "SFT", "at least one message"),
        ({"messages": "hello"}, "SFT", "must be a list of messages, found a string"),
        ({"messages": ["hello"]}, "SFT", "message 1: expected an object"),
        ({"messages": [{"role": "user", "content": None}]}, "SFT", "content must be a string"),
        ({"messages": [{**USER, "weight": 0}]}, "SFT", "'weight' is not understood"),
        ({"prompt": "", "completion": ""}, "SFT", "both empty"),
        ({"text": 3}, "SFT", "text must be a string, found a number"),
        ({"instruction": "", "output": "a"}, "SFT", "both empty"),
        ({"instruction": "q", "output": ""}, "SFT", "output is empty"),
        ({"instruction": "q", "output": "a", "history": [["a", "b"]]}, "SFT", "history"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "SFT", "from 'tool' is not one of"),
        ({"conversations": [{"from": "human", "value": None}]}, "SFT", "message 1: content must"),
        ({"input_ids": []}, "SFT", "input_ids is empty"),
        ({"input_ids": [1, True]}, "SFT", "item 2: True is no token id"),
        ({"input_ids": [1], "labels": [-5]}, "SFT", "other than -100"),
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}, "SFT", "in the middle"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, "SFT", "attention_mask has 1 items"),
        ({"prompt": [USER, BOT]}, "GRPO", "the last message must have the role user"),
        ({"prompt": " "}, "GRPO", "prompt is empty"),
        ({"prompt": "other", "chosen": [USER, BOT], "rejected": [USER, WORSE]}, "DPO", "begin with"),
        ({"prompt": "q", "chosen": "a", "rejected": [BOT]}, "DPO", "both strings or both messages"),
        ({"chosen": [USER, BOT], "rejected": [SYSTEM, BOT]}, "DPO", "no common first message"),
        ({"chosen": [USER, BOT, USER], "rejected": [USER, WORSE, USER]}, "DPO", "role assistant"),
        ({"prompt": [USER], "chosen": [BOT, BOT], "rejected": [BOT]}, "DPO", "found 2"),
        ({"prompt": "q", "completion": "a", "label": 2}, "KTO", "label must be true or false"),
        ({"prompt": "q", "completion": "a", "label": None}, "KTO", "found null"),
    ],
)  # fmt: skip
def test_invalid_rows(row: dict[str, Any], method: str, message: str) -> None:
    with pytest.raises(TrainerError) as caught:
        found(row, method)
    assert caught.value.reason is Reason.DATA_INVALID
    assert caught.value.message.startswith(f"{HERE}: ")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " ", "label": 1}, "text is empty"),
        ({"text": "x", "label": -1}, "-1 is no class"),
        ({"text": "x", "label": 0.5}, "expected a name or a whole number"),
        ({"text": "x", "label": ""}, "an empty string"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "tokens, item 2: expected a word"),
        ({"tokens": ["a"], "tags": "O"}, "tags must be a list"),
    ],
)
def test_invalid_labels(row: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        found(row, task="text-classification")


def test_columns_are_mapped() -> None:
    given = rows({"question": "q", "completion": "a", "prompt": "not this", "id": 1})
    [row] = rename(given, {"prompt": "question"})
    assert row == Row({"completion": "a", "prompt": "q", "id": 1}, HERE)
    [swapped] = rename(
        rows({"prompt": "a", "completion": "b"}), {"prompt": "completion", "completion": "prompt"}
    )
    assert swapped.columns == {"prompt": "b", "completion": "a"}
