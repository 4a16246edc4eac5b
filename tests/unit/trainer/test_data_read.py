import json
from pathlib import Path

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.formats import Conversation, Document, Pair, recognise, to_examples
from finetune_trainer.data.read import Row, read_rows
from finetune_trainer.errors import TrainerError
from finetune_trainer.inputs import DataFile

GOOD = b'{"text": "x"}\n'
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def read(folder: Path, content: bytes, name: str = "train.jsonl") -> list[Row]:
    path = folder / name
    path.write_bytes(content)
    return read_rows([DataFile(path, name)])


def test_rows_keep_their_origin(tmp_path: Path) -> None:
    rows = read(tmp_path, b"\xef\xbb\xbf" + GOOD + b"\n" + '{"text": "é\u2028"}\r\n'.encode())
    assert [row.columns["text"] for row in rows] == ["x", "é\u2028"]
    assert [row.origin for row in rows] == ["train.jsonl line 1", "train.jsonl line 3"]


def test_list_of_objects(tmp_path: Path) -> None:
    rows = read(tmp_path, b'[{"text": "a"},\n {"text": "b"}]', "a.json")
    assert [row.origin for row in rows] == ["a.json item 1", "a.json item 2"]


@pytest.mark.parametrize(
    ("content", "name", "reason", "message"),
    [
        (
            GOOD * 16 + b'{"text": \n',
            "train.jsonl",
            Reason.DATA_INVALID,
            "train.jsonl line 17: not valid JSON",
        ),
        (
            GOOD + b"[1]\n",
            "train.jsonl",
            Reason.DATA_INVALID,
            "line 2: expected an object, found a list",
        ),
        (b"", "train.jsonl", Reason.DATA_EMPTY, "train.jsonl has no rows"),
        (b"\n \n", "train.jsonl", Reason.DATA_EMPTY, "train.jsonl has no rows"),
        (b"[]", "a.json", Reason.DATA_EMPTY, "a.json has no rows"),
        (b"{}", "a.json", Reason.DATA_INVALID, "expected a list of objects, found an object"),
        (b"[{},\n{,}]", "a.json", Reason.DATA_INVALID, "line 2"),
        (GOOD.decode().encode("utf-16"), "train.jsonl", Reason.DATA_INVALID, "is UTF-16"),
        (GOOD.decode().encode("utf-16-le"), "train.jsonl", Reason.DATA_INVALID, "UTF-16"),
        (GOOD.decode().encode("utf-32"), "train.jsonl", Reason.DATA_INVALID, "is UTF-32"),
        (GOOD + b'{"text": "\xe9"}', "train.jsonl", Reason.DATA_INVALID, "line 2: not UTF-8"),
        (b'{"a":' * 100_000, "train.jsonl", Reason.DATA_INVALID, "line 1"),
    ],
)
def test_unreadable(
    tmp_path: Path, content: bytes, name: str, reason: Reason, message: str
) -> None:
    with pytest.raises(TrainerError) as caught:
        read(tmp_path, content, name)
    assert caught.value.reason is reason
    assert message in caught.value.message


def rows(*columns: dict[str, object]) -> list[Row]:
    return [Row(json.loads(json.dumps(each)), f"t line {i}") for i, each in enumerate(columns, 1)]


@pytest.mark.parametrize(
    ("row", "data_format", "kind"),
    [
        ({"messages": CHAT, "id": 1}, "Messages", Conversation),
        ({"prompt": "q", "completion": "a"}, "PromptCompletion", Pair),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "PromptCompletion", Conversation),
        ({"text": "x"}, "Text", Document),
    ],
)
def test_recognised(row: dict[str, object], data_format: str, kind: type) -> None:
    given = rows(row, row)
    assert recognise(given, "Auto") == data_format
    assert recognise(given, data_format) == data_format
    assert [type(example) for example in to_examples(given, data_format)] == [kind, kind]


@pytest.mark.parametrize(
    ("given", "declared", "message"),
    [
        ([{"question": "q", "answer": "a"}], "Auto", "(answer, question) fit no known format"),
        ([{"text": "x", "messages": CHAT}], "Auto", "fit several formats"),
        ([{"text": "x"}, {"messages": CHAT}], "Auto", "t line 2 is Messages, but t line 1 is Text"),
        ([{"text": "x"}, {"txt": "x"}], "Auto", "t line 2: the columns (txt)"),
        ([{"text": "x"}], "Messages", "needs the columns messages; found text"),
    ],
)
def test_unknown_format(given: list[dict[str, object]], declared: str, message: str) -> None:
    with pytest.raises(TrainerError) as caught:
        recognise(rows(*given), declared)
    assert caught.value.reason is Reason.DATA_FORMAT_UNKNOWN
    assert message in caught.value.message


def turn(role: object = "user", content: object = "x", **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("row", "data_format", "message"),
    [
        ({"messages": []}, "Messages", "at least one message"),
        ({"messages": "hello"}, "Messages", "must be a list"),
        ({"messages": ["hello"]}, "Messages", "message 1: expected an object"),
        ({"messages": [turn("human")]}, "Messages", "role 'human' is not one of system, user"),
        ({"messages": [turn(), turn("system")]}, "Messages", "can only be the first"),
        ({"messages": [turn(content=None)]}, "Messages", "message 1: content must be a string"),
        ({"messages": [turn(tool_calls=[1])]}, "Messages", "'tool_calls' is not understood"),
        ({"prompt": "q", "completion": CHAT}, "PromptCompletion", "both strings or both messages"),
        (
            {"prompt": CHAT, "completion": [turn()]},
            "PromptCompletion",
            "must have the role assistant",
        ),
        ({"prompt": "", "completion": ""}, "PromptCompletion", "both empty"),
        ({"text": 3}, "Text", "text must be a string"),
    ],
)
def test_invalid_row(row: dict[str, object], data_format: str, message: str) -> None:
    good = {"Messages": {"messages": CHAT}, "Text": {"text": "x"}}
    first = good.get(data_format, {"prompt": "q", "completion": "a"})
    with pytest.raises(TrainerError) as caught:
        to_examples(rows(first, row), data_format)
    assert caught.value.reason is Reason.DATA_INVALID
    assert caught.value.message.startswith("t line 2: ")
    assert message in caught.value.message
