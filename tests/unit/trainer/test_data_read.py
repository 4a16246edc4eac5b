"""Good files of every kind give their rows, each with its place."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.read import read_rows
from finetune_trainer.data.readers import limits
from finetune_trainer.data.readers.row import Row
from finetune_trainer.errors import TrainerError

ROWS = [{"text": "é one"}, {"text": "two\u2028"}, {"text": "three, 'quoted' \"twice\""}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def read(folder: Path, content: bytes, name: str) -> list[Row]:
    path = folder / name
    path.write_bytes(content)
    return list(read_rows([DataFile(path, name)]))


def table(*, stream: bool = False, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    columns = pyarrow.Table.from_pylist(ROWS)
    make = ipc.new_stream if stream else ipc.new_file
    with make(sink, columns.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(columns)
    return sink.getvalue()


def parquet_file() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", JSONL, "line"),
        ("a.jsonl", JSONL.removesuffix(b"\n"), "line"),
        ("a.jsonl", JSONL.replace(b"\n", b"\r\n"), "line"),
        ("a.jsonl", b"\xef\xbb\xbf" + JSONL, "line"),
        ("a.JSONL", JSONL, "line"),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0), "line"),
        (
            "a.jsonl.gz",
            gzip.compress(JSONL[:20], mtime=0) + gzip.compress(JSONL[20:], mtime=0),
            "line",
        ),
        ("a.jsonl.zst", zstd(JSONL), "line"),
        ("a.json", json.dumps(ROWS, indent=1).encode(), "item"),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode(), "item"),
        ("a.json", JSONL, "line"),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0), "item"),
        ("a.parquet", parquet_file(), "row"),
        ("a.arrow", table(), "row"),
        ("a.arrow", table(stream=True), "row"),
        ("a.arrow", table(stream=True, compression="zstd"), "row"),
    ],
)
def test_rows_and_their_places(name: str, content: bytes, place: str, tmp_path: Path) -> None:
    found = read(tmp_path, content, name)
    assert [row.columns for row in found] == ROWS
    assert [row.origin for row in found] == [f"{name} {place} {n}" for n in (1, 2, 3)]


def test_empty_lines_count_but_are_no_rows(tmp_path: Path) -> None:
    found = read(tmp_path, b'{"text": "a"}\n\n  \n{"text": "b"}\n', "a.jsonl")
    assert [row.origin for row in found] == ["a.jsonl line 1", "a.jsonl line 4"]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ",")])
def test_a_table_of_text(name: str, mark: str, tmp_path: Path) -> None:
    content = f'text{mark}label\n"two\nlines"{mark}1\n\n"a ""word"""{mark}\n'.encode()
    if name.endswith(".gz"):
        content = gzip.compress(content)
    found = read(tmp_path, content, name)
    assert [row.columns for row in found] == [
        {"text": "two\nlines", "label": "1"},
        {"text": 'a "word"', "label": ""},
    ]
    assert [row.origin for row in found] == [f"{name} line 2", f"{name} line 5"]


@pytest.mark.parametrize("write", [parquet.write_table, None])
def test_class_numbers_become_names(write: Any, tmp_path: Path) -> None:
    kind = {"names": ["O", "B-PER"], "_type": "ClassLabel"}
    features = {"tags": {"feature": kind, "_type": "List"}, "label": kind}
    note = json.dumps({"info": {"features": features}})
    columns = pyarrow.Table.from_pylist([{"tags": [1, 0], "label": 1}, {"tags": [0], "label": 0}])
    columns = columns.replace_schema_metadata({"huggingface": note})
    sink = io.BytesIO()
    if write:
        write(columns, sink)
    else:
        with ipc.new_stream(sink, columns.schema) as writer:
            writer.write_table(columns)
    found = read(tmp_path, sink.getvalue(), "a.parquet" if write else "a.arrow")
    assert found[0].columns == {"tags": ["B-PER", "O"], "label": "B-PER"}
    assert found[1].columns == {"tags": ["O"], "label": "O"}


def test_rows_are_numbered_across_batches(tmp_path: Path) -> None:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({"n": list(range(1000))}), sink, row_group_size=300)
    found = read(tmp_path, sink.getvalue(), "a.parquet")
    assert [row.columns["n"] for row in found] == list(range(1000))
    assert found[-1].origin == "a.parquet row 1000"


def test_a_huge_line_is_told_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.data.readers.text.MAX_LINE", 2**20)
    with pytest.raises(TrainerError, match=r"a.jsonl line 3: the line is larger") as caught:
        read(tmp_path, JSONL[:0] + b"{}\n{}\n" + b'{"a": "' + b"x" * 2**21, "a.jsonl")
    assert caught.value.reason is Reason.DATA_TOO_LARGE


def test_what_compresses_well_is_no_bomb(tmp_path: Path) -> None:
    many = JSONL * 100_000
    assert limits.FREE > len(many) > 100 * len(gzip.compress(many))
    assert len(read(tmp_path, gzip.compress(many), "a.jsonl.gz")) == 300_000


def test_a_damaged_table_names_the_last_good_row(tmp_path: Path) -> None:
    sink = io.BytesIO()
    parquet.write_table(
        pyarrow.table({"text": [str(n) for n in range(600)]}),
        sink,
        row_group_size=300,
        compression="none",
        use_dictionary=False,
    )
    content = bytearray(sink.getvalue())
    second = parquet.ParquetFile(io.BytesIO(content)).metadata.row_group(1).column(0)
    start = second.data_page_offset
    content[start : start + 30] = b"\xff" * 30
    with pytest.raises(TrainerError, match="after row 256") as caught:
        read(tmp_path, bytes(content), "a.parquet")
    assert caught.value.reason is Reason.DATA_CORRUPT
