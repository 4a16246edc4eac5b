"""Data that no job can learn from, each with the reason and the place that its failure must name.

Judged in unit tests by the trainer's own functions, and in e2e tests by jobs from apply to status.
Everything is made here, byte by byte; nothing is larger than a few hundred kilobytes.
"""

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

GOOD = {"prompt": "Which colour? ", "completion": "The colour is red."}


@dataclass(frozen=True)
class BadData:
    """Files of a data source, and how a job on them must fail.

    Attributes:
        files: Content by name; one file is given as itself, several as their folder.
        reason: Reason of the failure.
        words: What the message must say, the place among it.
        changes: Changes of the spec beside its source.
        tokenized: Whether it is found only when the rows are tokenized.
    """

    files: dict[str, bytes]
    reason: str
    words: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    tokenized: bool = False


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _jsonl(content: bytes, reason: str, *words: str, **changes: Any) -> BadData:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return BadData({"t.jsonl": content}, reason, words, dotted)


def _rows(reason: str, *words: str, rows: list[Any], **changes: Any) -> BadData:
    return _jsonl(lines(*rows), reason, *words, **changes)


def _tokenized(case: BadData) -> BadData:
    return BadData(case.files, case.reason, case.words, case.changes, tokenized=True)


def _table(write: Callable[[Any, io.BytesIO], None]) -> bytes:
    import pyarrow

    sink = io.BytesIO()
    write(pyarrow.Table.from_pylist([GOOD] * 2000), sink)
    return sink.getvalue()


def parquet_file() -> bytes:
    from pyarrow import parquet

    return _table(parquet.write_table)


def _damaged_parquet() -> bytes:
    # The footer stays whole, so that the damage is met while rows are read.
    content = bytearray(parquet_file())
    content[4:40] = b"\xff" * 36
    return bytes(content)


def bomb(size: int = 80 * 2**20) -> bytes:
    """One line of spaces: harmless to keep, large to unpack."""
    return gzip.compress(b" " * size, 9)


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


_TWO = {"prompt": "q", "chosen": "same", "rejected": "same"}
_DPO = {"method__type": "DPO"}

BAD_DATA: dict[str, BadData] = {
    # What is no text, or no JSON.
    "empty-file": _jsonl(b"", "DataEmpty", "t.jsonl has no rows"),
    "only-empty-lines": _jsonl(b"\n \r\n\n", "DataEmpty", "t.jsonl has no rows"),
    "utf-16": _jsonl(lines(GOOD).decode().encode("utf-16"), "DataEncodingUnknown", "t.jsonl line 1", "UTF-16"),
    "utf-16-without-mark": _jsonl(lines(GOOD).decode().encode("utf-16-le"), "DataEncodingUnknown", "t.jsonl line 1"),
    "utf-32": _jsonl(lines(GOOD).decode().encode("utf-32"), "DataEncodingUnknown", "t.jsonl line 1", "UTF-32"),
    "latin-1": _jsonl(lines(GOOD) + b'{"text": "\xe9t\xe9"}\n', "DataEncodingUnknown", "t.jsonl line 2", "0xe9"),
    "zero-bytes": _jsonl(lines(GOOD) + b"\x00" * 100, "DataEncodingUnknown", "t.jsonl line 2", "zero bytes"),
    "broken-line-17": _jsonl(
        lines(*[GOOD] * 16) + b'{"prompt": "x", \r\n' + lines(GOOD), "DataInvalid", "t.jsonl line 17", "not valid JSON"
    ),
    "two-objects-in-a-line": _jsonl(b'{"text": "a"}{"text": "b"}\n', "DataInvalid", "t.jsonl line 1", "Extra data"),
    "a-list-in-a-line": _jsonl(lines(GOOD, [1]), "DataInvalid", "t.jsonl line 2", "found a list"),
    "too-deep": _jsonl(b'{"a":' * 100_000, "DataInvalid", "t.jsonl line 1", "nested too deeply"),
    "not-a-number": _jsonl(lines(GOOD) + b'{"text": "x", "score": NaN}\n', "DataInvalid", "t.jsonl line 2", "NaN"),
    "too-many-digits": _jsonl(b'{"a": ' + b"9" * 5000 + b"}\n", "DataInvalid", "t.jsonl line 1", "digits"),
    "half-a-character": _jsonl(b'{"text": "x \\ud83d y"}\n', "DataInvalid", "t.jsonl line 1", "surrogate"),
    "key-twice": _jsonl(b'{"text": "a", "text": "b"}\n', "DataInvalid", "t.jsonl line 1", "'text' stands twice"),
    "object-in-json": BadData({"t.json": b'{\n "data": []\n}'}, "DataInvalid", ("t.json", "expected a list")),
    # Tables and packed files.
    "csv-header-only": BadData({"t.csv": b"prompt,completion\n"}, "DataEmpty", ("t.csv", "header but no rows")),
    "csv-column-twice": BadData({"t.csv": b"text,text\na,b\n"}, "DataInvalid", ("t.csv line 1", "'text' stands twice")),
    "csv-ragged": BadData(
        {"t.csv": b'prompt,completion\n"a\nb",c\na,b,c\n'}, "DataInvalid", ("t.csv line 4", "3 values")
    ),
    "csv-open-quote": BadData({"t.csv": b'text\nfine\n"never closed\n'}, "DataInvalid", ("t.csv line 3", "not valid CSV")),
    "csv-semicolons": BadData({"t.csv": b"prompt;completion\na;b\n"}, "DataInvalid", ("t.csv line 1", "semicolons")),
    "cut-parquet": BadData({"t.parquet": parquet_file()[:-100]}, "DataCorrupt", ("t.parquet",)),
    "damaged-parquet": BadData({"t.parquet": _damaged_parquet()}, "DataCorrupt", ("t.parquet",)),
    "no-parquet": BadData({"t.parquet": b"<html>404</html>" * 9}, "DataCorrupt", ("t.parquet",)),
    "no-arrow": BadData({"t.arrow": b"ARROW1\0\0" + b"\xff" * 64}, "DataCorrupt", ("t.arrow",)),
    "cut-gzip": BadData({"t.jsonl.gz": gzip.compress(lines(*[GOOD] * 99))[:-20]}, "DataCorrupt", ("t.jsonl.gz",)),
    "gzip-bomb": BadData({"t.jsonl.gz": bomb()}, "DataTooLarge", ("t.jsonl.gz", "200-fold")),
    "loader-script": BadData(
        {"t.py": b"import datasets\n", "notes.txt": b"x"}, "RemoteCodeRefused", ("t.py", "never run")
    ),
    "no-data-file": BadData({"a.txt": b"x", "b.doc": b"y"}, "DataFormatUnknown", ("a.txt", "jsonl")),
    # What the columns say.
    "missing-column": _rows("DataFormatUnknown", "t.jsonl line 1", "answer, question", rows=[{"question": "q", "answer": "a"}]),
    "declared-column-missing": _rows(
        "ColumnNotFound", "t.jsonl line 2", "prompt, completion", rows=[GOOD, {"prompt": "q"}], data__format="PromptCompletion"
    ),
    "mapped-column-missing": _rows(
        "ColumnNotFound", "t.jsonl line 1", "takes prompt from question", rows=[GOOD], data__columns={"prompt": "question"}
    ),
    "mixed-formats": _rows("DataFormatUnknown", "t.jsonl line 2 is Text", rows=[GOOD, {"text": "x"}]),
    "pairs-for-sft": _rows("DataFormatUnknown", "t.jsonl line 1 is Preference", "SFT", rows=[{**_TWO, "rejected": "other"}]),
    "verdicts-for-sft": _rows("DataFormatUnknown", "is UnpairedPreference", rows=[{**GOOD, "label": True}]),
    # What the rows say.
    "wrong-role": _rows("DataInvalid", "t.jsonl line 1: messages, message 2: role 'bot'", rows=[chat(("user", "q"), ("bot", "a"))]),
    "two-systems": _rows(
        "DataInvalid", "message 2", "only be the first", rows=[chat(("system", "a"), ("system", "b"), ("user", "q"))]
    ),
    "empty-content": _rows("DataInvalid", "message 2: the content is empty", rows=[chat(("user", "q"), ("assistant", " "))]),
    "tool-call": _rows(
        "DataInvalid", "'tool_calls'", rows=[{"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}]
    ),
    "prompt-not-a-string": _rows("DataInvalid", "t.jsonl line 2", "both strings", rows=[GOOD, {"prompt": 3, "completion": "x"}]),
    "answer-by-the-user": _rows(
        "DataInvalid", "completion", "assistant",
        rows=[{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "user", "content": "a"}]}],
    ),
    "no-prompt-in-pairs": _rows("DataInvalid", "no common beginning", rows=[{"chosen": "yes", "rejected": "no"}], **_DPO),
    "verdict-not-a-verdict": _rows(
        "DataInvalid", "label must be true or false", rows=[{**GOOD, "label": "maybe"}], method__type="KTO"
    ),
    "tokens-without-tags": _rows(
        "DataInvalid", "2 tokens, but 1 tags", rows=[{"tokens": ["a", "b"], "tags": ["O"]}], model__task="token-classification"
    ),
    # What only the tokens say.
    "all-rows-too-long": _tokenized(_rows("RowsTooLong", "t.jsonl line 1", "12 of 12", rows=[{**GOOD, "prompt": "Which? " * 9}] * 12, data__maxLength=8)),
    "labels-all-masked": _tokenized(_rows(
        "NoSupervisedTokens", "t.jsonl line 1", "3 of 3", rows=[chat(("user", "only a question"))] * 3
    )),
    "identical-pairs": _tokenized(_rows(
        "IdenticalPairs", "2 of 3 rows", "t.jsonl line 1, t.jsonl line 3", rows=[_TWO, {**_TWO, "rejected": "x"}, _TWO], **_DPO
    )),
    "unknown-token": _tokenized(_rows("TokenOutOfRange", "t.jsonl line 1", "99999", rows=[{"input_ids": [1, 99999]}])),
    "one-class": _tokenized(_rows(
        "OneClassOnly", "'good'", rows=[{"text": "x", "label": "good"}] * 3, model__task="text-classification"
    )),
    "template-that-fails": _tokenized(_rows(
        "ChatTemplateError", "t.jsonl line 1", "line 1", rows=[chat(("user", "q"), ("assistant", "a"))],
        data__chatTemplate="{{ messages[9].content.x }}",
    )),
    "template-that-escapes": _tokenized(_rows(
        "ChatTemplateError", "t.jsonl line 1", "SecurityError", rows=[chat(("user", "q"), ("assistant", "a"))],
        data__chatTemplate="{{ messages.__class__.__base__.__subclasses__() }}",
    )),
}  # fmt: skip
