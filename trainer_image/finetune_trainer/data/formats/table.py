"""The formats that a row can have: the columns that make each, and the check of a row.

A format may have several shapes (`prompt` is optional in Preference rows). Columns beyond those of the
shape are no offence; they are not used, except that prompts keep them for rewards.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from finetune_api.v1alpha1.data import DataFormat
from finetune_trainer.data.examples import Example
from finetune_trainer.data.formats import judgements, labels, texts
from finetune_trainer.data.readers.row import Row


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        shapes: Column names that a row must have, by shape; the usual shape first.
        check: Checks a row of this format and takes out what it says.
    """

    shapes: tuple[frozenset[str], ...]
    check: Callable[[Row], Example]

    def fit(self, columns: Iterable[str]) -> frozenset[str] | None:
        """The largest shape that the columns fill, or None."""
        present = set(columns)
        fitting = [shape for shape in self.shapes if shape <= present]
        return max(fitting, key=len, default=None)


def _format(check: Callable[[Row], Example], *shapes: str) -> Format:
    return Format(tuple(frozenset(shape.split()) for shape in shapes), check)


FORMATS: dict[DataFormat, Format] = {
    "Messages": _format(texts.from_messages, "messages"),
    "PromptCompletion": _format(texts.from_completion, "prompt completion"),
    "Text": _format(texts.from_text, "text"),
    "Preference": _format(judgements.from_preference, "prompt chosen rejected", "chosen rejected"),
    "UnpairedPreference": _format(judgements.from_judged, "prompt completion label"),
    "PromptOnly": _format(judgements.from_prompt, "prompt"),
    "Alpaca": _format(texts.from_alpaca, "instruction output"),
    "ShareGPT": _format(texts.from_sharegpt, "conversations"),
    "Labelled": _format(
        labels.from_labelled, "text label", *(f"tokens {name}" for name in labels.TAG_COLUMNS)
    ),
    "Tokenized": _format(labels.from_tokenized, "input_ids"),
}


def to_examples(rows: Sequence[Row], data_format: DataFormat) -> list[Example]:
    """Check every row and take out what the format uses.

    Raises:
        TrainerError: DataInvalid naming the row.
    """
    check = FORMATS[data_format].check
    return [check(row) for row in rows]


def described(formats: Iterable[DataFormat]) -> str:
    """Names and columns, for messages."""
    return "; ".join(
        f"{name} ({' or '.join(_listed(shape) for shape in FORMATS[name].shapes)})"
        for name in formats
    )


def _listed(shape: frozenset[str]) -> str:
    # In the order in which people say them.
    order = ("prompt", "chosen", "rejected", "completion", "text", "tokens", "instruction")
    return ", ".join(sorted(shape, key=lambda c: (order.index(c) if c in order else 99, c)))
