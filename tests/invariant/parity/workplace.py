"""The models and the raw rows that both sides of a comparison are given."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from support.preference_data import judgements, preferences
from support.taste import taste_model
from support.tiny_models import COLOURS, pairs, tiny_model, tokenizer_for, write_jsonl

# The last step of an epoch of batches of eight holds six.
ROWS = 22
SEED = 42
Row = dict[str, Any]


@dataclass(frozen=True)
class Workplace:
    """A folder with a tiny model of each kind.

    Attributes:
        folder: Where models lie and runs may write.
    """

    folder: Path

    def model(self, name: str) -> Path:
        """The folder of a model: `teacher`, `terse`, `taste` or a family; made when it is first asked for."""
        path = self.folder / "models" / name
        if path.exists():
            return path
        if name == "taste":
            return taste_model(path, tokenizer_for("llama"))
        decoder = name in ("teacher", "terse")
        tiny_model(path, "llama" if decoder else name, seed=3 * (name == "teacher"))
        _switch_dropout_off(path / "config.json")
        if name == "terse":
            _like_to_stop(path)
        return path

    def data(self, name: str, rows: Sequence[Row]) -> Path:
        """A file of rows."""
        return write_jsonl(self.folder / "data" / f"{name}.jsonl", list(rows))


def _switch_dropout_off(config: Path) -> None:
    # What is dropped is drawn by lot, and our first step looks at its rows twice.
    settings = json.loads(config.read_text("utf-8"))
    dropout = {name: 0.0 for name in settings if "dropout" in name and settings[name]}
    config.write_text(json.dumps(settings | dropout), "utf-8")


def _like_to_stop(folder: Path) -> None:
    """Makes the end token likely at times, so that answers are of different length."""
    weights = load_file(folder / "model.safetensors")
    end = AutoTokenizer.from_pretrained(folder).eos_token_id
    weights["lm_head.weight"][end] *= 4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def answers() -> list[Row]:
    """Prompts with an answer of very unequal length, so that means over tokens and rows differ."""
    return [
        {"prompt": row["prompt"], "completion": " ".join([row["completion"]] * (1 + number % 4))}
        for number, row in enumerate(pairs(ROWS))
    ]


def pairs_of_answers() -> list[Row]:
    """Prompts with a better and a worse answer, of very unequal length."""
    return [
        {**row, "chosen": " ".join([row["chosen"]] * (1 + number % 3))}
        for number, row in enumerate(preferences(ROWS))
    ]


def verdicts() -> list[Row]:
    """Judged answers, more good ones than bad."""
    return [{**row, "label": number % 3 > 0} for number, row in enumerate(judgements(ROWS, seed=1))]


def prompts() -> list[Row]:
    """Prompts alone, of unequal length."""
    return [
        {"prompt": " ".join([row["prompt"]] * (1 + number % 2)).strip()}
        for number, row in enumerate(pairs(ROWS))
    ]


def summaries() -> list[Row]:
    """Texts with a shorter one that follows from them; the library groups rows by what is read."""
    return [
        {"prompt": row["completion"], "completion": f"{_colour(row)} thing"} for row in answers()
    ]


def classes() -> list[Row]:
    """Texts with a class."""
    return [{"text": row["completion"], "label": _colour(row)} for row in answers()]


def tagged() -> list[Row]:
    """Words with a tag each."""
    rows = [row["completion"].replace(".", "").split() for row in answers()]
    return [
        {"tokens": row, "tags": ["B-COLOUR" if word in COLOURS else "O" for word in row]}
        for row in rows
    ]


def texts() -> list[Row]:
    """Texts alone."""
    return [{"text": row["prompt"] + row["completion"]} for row in answers()]


def _colour(row: Row) -> str:
    return next(colour for colour in COLOURS if colour in row["completion"])


def shuffled(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order in which our KTO keeps them."""
    order = list(rows)
    random.Random(SEED).shuffle(order)  # noqa: S311
    return order
