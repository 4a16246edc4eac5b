"""Which files of a folder are read: by the card, by the names, and never by a script."""

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.layout import Wish, choose
from finetune_trainer.errors import TrainerError

HUB = "hf://org/birds"
MEASURED = ("validation", "test")


def chosen(
    *names: str,
    card: str | None = None,
    split: str | None = None,
    subset: str | None = None,
    usual: tuple[str, ...] = ("train",),
) -> list[str]:
    return list(choose(names, card, Wish(HUB, split, subset, usual)).files)


SHARDS = [f"data/{s}-0000{n}-of-00002.parquet" for s in ("test", "train") for n in (0, 1)]


@pytest.mark.parametrize(
    ("names", "train"),
    [
        (["a.jsonl"], ["a.jsonl"]),
        (["a.jsonl", "b.csv", "README.md"], ["a.jsonl", "b.csv"]),
        (SHARDS, SHARDS[2:]),
        (["train.csv", "valid.csv", "test.csv"], ["train.csv"]),
        (["my-train-part.jsonl", "my_dev.jsonl"], ["my-train-part.jsonl"]),
        (["x/training/0.parquet", "x/eval/0.parquet"], ["x/training/0.parquet"]),
        (["constraint.jsonl", "contest.jsonl"], ["constraint.jsonl", "contest.jsonl"]),
        (["train/a.arrow", "train/state.json", "test/b.arrow", "dataset_dict.json"], ["train/a.arrow"]),
        (["a.jsonl", ".cache/b.jsonl", "_old/c.jsonl", "d.jsonl.gz"], ["a.jsonl", "d.jsonl.gz"]),
        (["2024-test-run/0.jsonl", "2024-test-run/1.jsonl"], ["2024-test-run/0.jsonl", "2024-test-run/1.jsonl"]),
    ],
)  # fmt: skip
def test_names_tell_the_split(names: list[str], train: list[str]) -> None:
    assert chosen(*names) == train


def test_splits_by_name_can_be_asked_for() -> None:
    assert chosen(*SHARDS, split="test") == SHARDS[:2]
    assert chosen("train.csv", "dev.csv", split="validation") == ["dev.csv"]
    assert chosen("train.csv", "dev.csv", "test.csv", usual=MEASURED) == ["dev.csv"]
    assert chosen("train.csv", "test.csv", usual=MEASURED) == ["test.csv"]
    with pytest.raises(TrainerError, match="no split 'dev'; there are train, test") as caught:
        chosen("train.csv", "test.csv", split="dev")
    assert caught.value.reason is Reason.DATA_NOT_FOUND


def test_evaluation_is_not_taken_from_training_rows_in_silence() -> None:
    with pytest.raises(TrainerError, match="has the splits train, none of validation, test"):
        chosen("train-a.csv", "train-b.csv", usual=MEASURED)


CARD = """---
license: mit
configs:
- config_name: small
  data_files:
  - split: train
    path: small/*.jsonl
  - split: test
    path: [small/more/**]
- config_name: large
  default: true
  data_files:
    train: "large/part-[0-9].parquet"
---
# Birds
"""
BIRDS = (
    "README.md",
    "small/a.jsonl",
    "small/b.jsonl",
    "small/more/x/c.jsonl",
    "large/part-1.parquet",
    "large/part-x.parquet",
)


def test_the_card_tells_subsets_and_splits() -> None:
    assert chosen(*BIRDS, card=CARD) == ["large/part-1.parquet"]
    assert chosen(*BIRDS, card=CARD, subset="small") == ["small/a.jsonl", "small/b.jsonl"]
    assert chosen(*BIRDS, card=CARD, subset="small", split="test") == ["small/more/x/c.jsonl"]
    layout = choose(BIRDS, CARD, Wish(HUB, None, None))
    assert (layout.subset, layout.split, layout.left_out) == ("large", "train", 4)


@pytest.mark.parametrize(
    ("card", "files"),
    [
        ("---\nconfigs:\n- config_name: a\n  data_files: x.jsonl\n---", ["x.jsonl"]),
        ("---\nconfigs:\n- config_name: a\n  data_files: [x.jsonl, d/y.jsonl]\n---", ["x.jsonl", "d/y.jsonl"]),
        ("---\nconfigs:\n- config_name: a\n  data_dir: d\n---", ["d/y.jsonl"]),
        ("---\nconfigs:\n- config_name: a\n  data_dir: d\n  data_files: '*.jsonl'\n---", ["d/y.jsonl"]),
        ("---\nconfigs:\n- config_name: a\n  data_files: d\n---", ["d/y.jsonl"]),
        ("---\nlicense: mit\n---", ["d/y.jsonl", "x.jsonl"]),
        ("# no head", ["d/y.jsonl", "x.jsonl"]),
    ],
)  # fmt: skip
def test_cards_say_it_in_several_ways(card: str, files: list[str]) -> None:
    assert chosen("x.jsonl", "d/y.jsonl", "README.md", card=card) == files


@pytest.mark.parametrize(
    ("card", "reason", "message"),
    [
        (CARD.replace("  default: true\n", ""), Reason.DATA_NOT_FOUND, "has the subsets small, large"),
        ("---\nconfigs: {\n---", Reason.DATA_INVALID, "cannot be understood"),
        ("---\nconfigs: 3\n---", Reason.DATA_INVALID, "`configs` is no list"),
        ("---\nconfigs:\n- data_files: 3\n---", Reason.DATA_INVALID, "names or patterns"),
        ("---\nconfigs:\n- data_files: none.csv\n---", Reason.DATA_NOT_FOUND, "no data file is called 'none.csv'"),
        (f"---\nconfigs:\n- data_files: '{'*a' * 9}'\n---", Reason.DATA_INVALID, "too many stars"),
        ("---\nconfigs:\n- !!python/object/apply:os.system ['true']\n---", Reason.DATA_INVALID, ""),
    ],
)  # fmt: skip
def test_cards_that_cannot_be_followed(card: str, reason: Reason, message: str) -> None:
    with pytest.raises(TrainerError) as caught:
        chosen(*BIRDS, card=card)
    assert caught.value.reason is reason
    assert message in caught.value.message
    assert HUB in caught.value.message


def test_subsets_that_are_not_there() -> None:
    with pytest.raises(TrainerError, match="no subset 'huge'; there are small, large"):
        chosen(*BIRDS, card=CARD, subset="huge")
    with pytest.raises(TrainerError, match="no subset 'a'; it has no subsets"):
        chosen("a.jsonl", subset="a")


@pytest.mark.parametrize("names", [["birds.py"], ["load.py", "README.md"], ["birds.py", "a.jsonl"]])
def test_a_script_is_never_run(names: list[str]) -> None:
    for uri in (HUB, f"{HUB}@main", "s3://bucket/birds"):
        with pytest.raises(TrainerError, match=r"script .*\.py, which is never run") as caught:
            choose(names, None, Wish(uri, None, None))
        assert caught.value.reason is Reason.REMOTE_CODE_REFUSED


def test_other_scripts_beside_data_are_no_offence() -> None:
    assert chosen("make.py", "tools/birds.py", "a.jsonl") == ["a.jsonl"]
