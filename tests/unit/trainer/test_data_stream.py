"""Rows that are read while training goes on: every row once a pass, the same order for the same seed."""

import json
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1 import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data import stream
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.given import Given
from finetune_trainer.data.load import Examples, load
from finetune_trainer.data.prepare import token_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.errors import TrainerError
from support.jobs import spec
from support.tiny_models import pairs, tiny_tokenizer, write_jsonl

ROWS = 60


def loaded(folder: Path, *, seed: int = 1, **data: Any) -> tuple[FineTuneJobSpec, Examples]:
    files = [
        DataFile(write_jsonl(folder / f"{n}.jsonl", pairs(ROWS // 2, seed=n)), f"{n}.jsonl")
        for n in (1, 2)
    ]
    changes = {"data.streaming": True, "training": {"maxSteps": 5, "seed": seed}}
    wanted = FineTuneJobSpec.model_validate(spec(changes | data))
    return wanted, load(wanted, files, [])


def prepared(folder: Path, **settings: Any) -> Prepared[TokenRow]:
    wanted, examples = loaded(folder, **settings)
    seed = wanted.training.seed
    return token_rows(Given(examples, wanted.data, tiny_tokenizer(), 512, seed))


def rows(found: Prepared[TokenRow]) -> Iterator[TokenRow]:
    assert found.stream is not None
    return found.stream()


def test_every_pass_has_every_row_once(tmp_path: Path) -> None:
    found = prepared(tmp_path)
    stream_of_rows = rows(found)
    passes = [[row.origin for row in islice(stream_of_rows, ROWS)] for _ in range(3)]
    assert all(sorted(each) == sorted(passes[0]) for each in passes)
    assert len(set(passes[0])) == ROWS
    assert passes[0] != passes[1]
    in_order = sorted(passes[0])
    assert passes[0] != in_order


def test_the_order_follows_the_seed_and_begins_anew(tmp_path: Path) -> None:
    first, other = prepared(tmp_path), prepared(tmp_path, seed=2)
    once, again = ([row.origin for row in islice(rows(first), 90)] for _ in range(2))
    assert once == again
    assert once != [row.origin for row in islice(rows(other), 90)]


def test_rows_are_those_of_an_ordinary_run(tmp_path: Path) -> None:
    found = prepared(tmp_path)
    by_origin = {row.origin: row for row in found.train}
    assert len(by_origin) == ROWS
    assert all(by_origin[row.origin] == row for row in islice(rows(found), ROWS))
    [note] = [each for each in found.resolved if each.field == "data.streaming"]
    assert "first 60 rows" in note.why


def test_only_the_beginning_of_each_file_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_ROWS", 10)
    found = prepared(tmp_path)
    origins = [row.origin for row in found.train]
    assert origins == [f"{file}.jsonl line {n}" for file in (1, 2) for n in range(1, 6)]


def test_a_bad_row_further_on_ends_the_run_with_its_place(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*pairs(1200), {"prompt": 3, "completion": "x"}])
    wanted = FineTuneJobSpec.model_validate(
        spec({"data.streaming": True, "training": {"maxSteps": 5}})
    )
    examples = load(wanted, [DataFile(path, "a.jsonl")], [])
    assert examples.stream is not None
    with pytest.raises(TrainerError, match=r"a.jsonl line 1201: .* both strings") as caught:
        list(islice(examples.stream.examples(), 1300))
    assert caught.value.reason is Reason.DATA_INVALID


def test_rows_that_teach_nothing_end_the_run(tmp_path: Path) -> None:
    asked = {"messages": [{"role": "user", "content": "q"}]}
    told = {"messages": [*asked["messages"], {"role": "assistant", "content": "a"}]}
    path = write_jsonl(tmp_path / "a.jsonl", [*[told] * 1000, *[asked] * 1000])
    wanted = FineTuneJobSpec.model_validate(
        spec({"data.streaming": True, "training": {"maxSteps": 5}})
    )
    examples = load(wanted, [DataFile(path, "a.jsonl")], [])
    found = token_rows(Given(examples, wanted.data, tiny_tokenizer(), 512, 1))
    with pytest.raises(TrainerError, match="rows have no token that carries loss") as caught:
        list(islice(rows(found), 2000))
    assert caught.value.reason is Reason.NO_SUPERVISED_TOKENS


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """20 MB of rows pass through; what is held at once stays far below."""
    line = json.dumps({"prompt": "q", "completion": "x" * 1000}) + "\n"
    path = tmp_path / "a.jsonl"
    path.write_text(line * 20_000)
    wanted = FineTuneJobSpec.model_validate(
        spec({"data.streaming": True, "training": {"maxSteps": 5}})
    )
    tracemalloc.start()
    try:
        examples = load(wanted, [DataFile(path, "a.jsonl")], [])
        assert examples.stream is not None
        passed = sum(1 for _ in islice(examples.stream.examples(), 20_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert passed == 20_000
    assert peak < 10 * 2**20
