"""Token rows in mapped files: the same rows, made once for all processes and attempts, in little memory."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from finetune_api.v1alpha1 import FineTuneJobSpec
from finetune_api.v1alpha1.data import Data
from finetune_trainer.batches import dataset, packed_dataset
from finetune_trainer.data.contract.draw_up import Subject, draw_up
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.formats import to_examples
from finetune_trainer.data.given import Given
from finetune_trainer.data.load import Examples, load_once
from finetune_trainer.data.mapped import MappedRows, longest_first
from finetune_trainer.data.packing import pack
from finetune_trainer.data.prepare import (
    class_rows,
    judged_rows,
    masked_rows,
    preference_rows,
    prompt_rows,
    sequence_rows,
    tag_rows,
    token_rows,
)
from finetune_trainer.data.readers.row import Row
from finetune_trainer.data.rows import PromptRow, TokenRow
from finetune_trainer.data.store import TokenStore
from finetune_trainer.errors import TrainerError
from finetune_trainer.preference.judged import dataset as judged_dataset
from finetune_trainer.preference.judged import shuffled
from finetune_trainer.preference.pairs import dataset as pairs_dataset
from finetune_trainer.recipes.prompts import numbered
from finetune_trainer.resume.identity import digest
from finetune_trainer.rewards.build import NamedReward
from finetune_trainer.rewards.functions import ExactMatch
from finetune_trainer.supervised.collators import class_dataset
from support.jobs import spec
from support.label_data import classes, tags
from support.preference_data import judgements, preferences
from support.tiny_models import pairs, tiny_tokenizer, tokenizer_for, write_jsonl

TASKS: dict[str, Any] = {
    "Labelled": "text-classification", "Tagged": "token-classification", "Text": "fill-mask",
}  # fmt: skip
LOOSE = {"limits": {"maxSkipped": 0.9, "maxTruncated": 1.0}}


class Counting:
    """A tokenizer that counts the texts that it is given in lists."""

    def __init__(self, inner: Any = None) -> None:
        self.inner, self.texts = inner or tiny_tokenizer(), 0

    def __call__(self, texts: Any, *arguments: Any, **named: Any) -> Any:
        self.texts += len(texts) if isinstance(texts, list) else 0
        return self.inner(texts, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def given(store: TokenStore | None = None, tokenizer: Any = None, **data: Any) -> Given:
    rows = [Row(row, f"t.jsonl:{number}") for number, row in enumerate(pairs(40))]
    examples = Examples(to_examples(rows, "PromptCompletion"), [], "PromptCompletion", "All", [])
    sources = data.pop("train", [{"source": "s3://b/t.jsonl"}])
    origins = {row.origin: number % len(sources) for number, row in enumerate(rows)}
    spec = Data.model_validate({"train": sources, **data})
    examples = replace(examples, sources=origins)
    return Given(examples, spec, tokenizer or tiny_tokenizer(), 512, 1, 400, store=store)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"evaluation": {"fraction": 0.2}},
        {"maxLength": 8, **LOOSE},
        {"train": [{"source": "s3://b/a"}, {"source": "s3://b/c", "weight": 2.5}]},
    ],
)
def test_rows_are_those_that_memory_holds(tmp_path: Path, data: dict[str, Any]) -> None:
    held, kept = token_rows(given(**data)), token_rows(given(TokenStore(tmp_path), **data))
    assert isinstance(kept.train, MappedRows)
    assert list(kept.train) == held.train
    assert list(kept.evaluation) == list(held.evaluation)
    assert kept.train[1:3] == held.train[1:3]
    assert replace(kept, train=[], evaluation=[]) == replace(held, train=[], evaluation=[])
    assert dataset(kept.train).to_dict() == dataset(held.train).to_dict()
    packs = [pack(rows, 64) for rows in (held.train, kept.train)]
    sequences = [packed_dataset(packed, TokenStore(tmp_path)) for packed in packs]
    assert sequences[0].to_dict() == sequences[1].to_dict()
    assert sequences[1].cache_files, "the library maps the file, too"


def _judged(rows: Any, store: TokenStore | None = None) -> Any:
    return judged_dataset(shuffled(rows, 3), 4, store)


class Kind(NamedTuple):
    """What is learned from one format, and how."""

    prepare: Callable[[Given], Any]
    rows: list[dict[str, Any]]
    dataset: Callable[..., Any]
    family: str = "llama"


KINDS = {
    "Preference": Kind(
        preference_rows,
        [*preferences(30), {"prompt": "a", "chosen": "b", "rejected": "b"}],
        pairs_dataset,
    ),
    "PromptCompletion": Kind(sequence_rows, pairs(30), dataset),
    "UnpairedPreference": Kind(judged_rows, judgements(30), _judged),
    "PromptOnly": Kind(
        prompt_rows, [{**row, "more": [None, 0.1, {"a": "\ud83d"}]} for row in pairs(30)], numbered
    ),
    "Labelled": Kind(class_rows, classes(30), class_dataset, "bert"),
    "Tagged": Kind(tag_rows, tags(30), dataset, "bert"),
    "Text": Kind(
        masked_rows, [{"text": row["completion"] * 9} for row in pairs(30)], dataset, "bert"
    ),
}


@pytest.mark.parametrize("data", [{"evaluation": {"fraction": 0.2}}, {"maxLength": 24, **LOOSE}])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind_are_kept(tmp_path: Path, kind: str, data: dict[str, Any]) -> None:
    prepare, rows, made, family = KINDS[kind]
    store, data_format = TokenStore(tmp_path), "Labelled" if kind == "Tagged" else kind
    found = to_examples([Row(row, f"p:{n}") for n, row in enumerate(rows)], data_format)  # type: ignore[arg-type]

    def prepared(store: TokenStore | None) -> Any:
        examples = Examples(found, [], data_format, "Completions", [])  # type: ignore[arg-type]
        return prepare(replace(given(store, tokenizer_for(family), **data), examples=examples))

    held, kept = prepared(None), prepared(store)
    assert isinstance(kept.train, MappedRows)
    assert list(kept.train) == list(held.train)
    assert list(kept.evaluation) == list(held.evaluation)
    assert replace(kept, train=[], evaluation=[]) == replace(held, train=[], evaluation=[])
    assert digest(kept) == digest(held)
    assert list(longest_first(kept.train)) == sorted(held.train, key=lambda row: -row.length)
    trained = made(kept.train, store) if made is _judged else made(kept.train)
    assert trained.to_dict() == made(held.train).to_dict()
    assert trained.cache_files or made is numbered, "the library maps the file, too"
    subject = Subject(given(**data).data, TASKS.get(kind, "text-generation"), tokenizer_for(family))
    assert draw_up(kept, subject) == draw_up(held, subject)


def test_one_message_tells_all_unknown_labels(tmp_path: Path) -> None:
    """Also of more rows than are encoded at once."""
    known, unknown = (
        to_examples([Row(row, f"t:{n}") for n, row in enumerate(rows)], "Labelled")
        for rows in (classes(20), [{"text": "a", "label": "violet"}] * 600)
    )
    examples = Examples(known, unknown, "Labelled", "Completions", [])
    told = []
    for store in (None, TokenStore(tmp_path)):
        with pytest.raises(TrainerError, match=r"^600 labels") as error:
            class_rows(replace(given(store, tokenizer_for("bert")), examples=examples))
        told.append(str(error.value))
    assert told[0] == told[1]


def test_columns_that_json_does_not_know_say_the_same(tmp_path: Path) -> None:
    columns = {"prompt": "a", "day": date(2026, 1, 2), "price": Decimal("1.50"), "raw": [b"x"]}
    rows = [PromptRow([1, 2], columns, "t.parquet row 1")]
    kept = TokenStore(tmp_path).rows("train", PromptRow, lambda: "key", lambda: rows)
    texts = [json.dumps(each.columns, default=str, sort_keys=True) for each in (*rows, *kept)]
    assert texts[0] == texts[1]
    reward = NamedReward("ExactMatch", 1.0, "day", ExactMatch())
    told = []
    for row in (*rows, *kept):
        with pytest.raises(TrainerError) as error:
            reward.check_row(row.columns, row.origin)
        told.append(str(error.value))
    assert told[0] == told[1]
    assert "holds date" in told[0]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "again"),
    [
        (lambda path: None, False),
        (flip, True),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), True),
        (lambda path: path.with_suffix(".json").unlink(), True),
        (lambda path: path.with_suffix(".json").write_text("{"), True),
    ],
)
def test_a_file_is_used_again_if_it_is_whole(
    tmp_path: Path, spoil: Callable[[Path], object], again: bool
) -> None:
    first, second = Counting(), Counting()
    expected = list(token_rows(given(TokenStore(tmp_path), first)).train)
    spoil(tmp_path / "train.arrow")
    assert list(token_rows(given(TokenStore(tmp_path), second)).train) == expected
    assert (first.texts, second.texts) == (40, 40 if again else 0)


def test_other_rows_settings_or_tokens_make_it_anew(tmp_path: Path) -> None:
    def counted(change: Callable[[Given], Given]) -> int:
        tokenizer = Counting()
        token_rows(change(given(TokenStore(tmp_path), tokenizer)))
        return tokenizer.texts

    def other_template(old: Given) -> Given:
        old.tokenizer.inner.chat_template = "{{ messages }}"
        return old

    def one_row_less(old: Given) -> Given:
        return replace(old, examples=replace(old.examples, train=old.examples.train[1:]))

    assert counted(lambda old: old) == 40
    assert counted(lambda old: replace(old, limit=256)) == 40
    assert counted(other_template) == 40
    assert counted(one_row_less) == 39
    assert counted(one_row_less) == 0


PROMPTS = {"method": {"type": "GRPO", "grpo": {"rewards": [{"type": "Regex", "pattern": "a"}]}}}
CLASSES = {"model.task": "text-classification"}
JOBS: dict[str, tuple[Callable[[Given], Any], dict[str, Any], list[dict[str, Any]], str]] = {
    "tokens": (token_rows, {}, pairs(40), "llama"),
    "classes": (class_rows, CLASSES, classes(40), "bert"),
    "prompts": (prompt_rows, PROMPTS, [{"prompt": row["prompt"]} for row in pairs(40)], "llama"),
}


def _prepared(job: str, folder: Path, *, rank: int, attempt: int = 1) -> tuple[Any, int]:
    """What one process makes of two weighted sources, and how many texts it has tokenized."""
    prepare, changes, rows, family = JOBS[job]
    weights = [{"source": f"s3://b/{name}.jsonl", "weight": 1 + name} for name in (0, 1)]
    wanted = {"data": {"train": weights, "maxLength": 20, "limits": {"maxSkipped": 1.0}}}
    job_spec = FineTuneJobSpec.model_validate(spec(wanted | changes))
    files = []
    for index in (0, 1):
        path = folder / f"{job}-{index}-of-process-{rank}.jsonl"
        if rank == 0:
            write_jsonl(path, rows[index::2])
        files.append(DataFile(path, f"{index}.jsonl", index))
    gang = folder / f"{job}-gang-{attempt}"
    examples = load_once(gang, job_spec, files, [])
    tokenizer = Counting(tokenizer_for(family))
    store = TokenStore(folder / f"{job}-tokens", gang)
    found = prepare(Given(examples, job_spec.data, tokenizer, 512, 1, 400, 4, store))
    return found, tokenizer.texts


def _process(rank: int, folder: Path) -> None:
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"})
    for job, attempt in product(JOBS, (1, 2)):
        found, texts = _prepared(job, folder, rank=rank, attempt=attempt)
        told = replace(found, train=list(found.train), evaluation=list(found.evaluation))
        (folder / f"{job}-{attempt}-{rank}").write_text(f"{texts} {told!r}")


def test_the_other_processes_neither_read_nor_tokenize(tmp_path: Path) -> None:
    """The files of the second process are not there at all; a second attempt tokenizes nothing."""
    for job, attempt in product(JOBS, (1, 2)):
        (tmp_path / f"{job}-gang-{attempt}").mkdir()
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_process, args=(rank, tmp_path)) for rank in (1, 0)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
    for job in JOBS:
        names = [f"{job}-{attempt}-{rank}" for attempt, rank in product((1, 2), (0, 1))]
        told = [(tmp_path / name).read_text().split(" ", 1) for name in names]
        assert [each[0] for each in told] == ["40", "0", "0", "0"]
        assert len({each[1] for each in told}) == 1
        alone, _ = _prepared(job, tmp_path, rank=0)
        assert repr(replace(alone, train=list(alone.train), evaluation=[])) == told[0][1]


def anonymous_memory() -> int:
    """Bytes of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    tokens, count = 400, 10_000

    def rows() -> Iterator[TokenRow]:
        for number in range(count):
            ids = list(range(1000 + number, 1000 + number + tokens))
            yield TokenRow(ids, ids, f"t.jsonl:{number}")

    before = anonymous_memory()
    kept = TokenStore(tmp_path).rows("train", TokenRow, lambda: "key", rows)
    chosen = kept.at(range(count - 1, 0, -1))
    assert sum(row.length for row in chosen) == (count - 1) * tokens
    trained = dataset(chosen)
    assert trained[0]["input_ids"] == list(range(1000 + count - 1, 1000 + count - 1 + tokens))
    # As lists, every token and label would take 8 bytes, and the number that both stand for 28.
    assert anonymous_memory() - before < count * tokens * 44 / 8
