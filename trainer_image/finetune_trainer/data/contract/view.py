"""One way to look at rows of every kind: their sequences, their answers' ends, their classes.

Used by the other modules of the contract. A new kind of row needs one function here and nothing else.
"""

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatchmethod
from itertools import groupby

from finetune_trainer.data.rows import (
    IGNORED,
    ClassRow,
    DataRow,
    JudgedRow,
    PreferenceRow,
    PromptRow,
    SequenceRow,
    TokenRow,
)


@dataclass(frozen=True)
class Stretch:
    """Neighbouring tokens of one treatment.

    Attributes:
        ids: Their ids.
        supervised: Whether they carry loss.
        note: What they are labelled as, where that is not themselves.
    """

    ids: list[int]
    supervised: bool
    note: str = ""


@dataclass(frozen=True)
class View:
    """A row as the contract sees it.

    Attributes:
        origin: File and line.
        digest: Equal for rows that teach the same.
        sequences: What the model meets, by name: one sequence, or one an answer.
        ends: The last supervised token of each answer; empty where nothing is written.
        asked: Whether something without loss, such as a prompt, stands before every answer.
        classes: How often each class stands in the row; empty where there are none.
    """

    origin: str
    digest: bytes
    sequences: dict[str, list[Stretch]]
    ends: tuple[int, ...] = ()
    asked: bool = True
    classes: tuple[str, ...] = ()


class Viewer:
    """Looks at rows of one job.

    Args:
        tagged: Whether labels of token rows are numbers of tags.
        hidden: Whether labels of token rows name tokens that may be hidden.
        label_names: Classes or tags by number.
    """

    def __init__(self, *, tagged: bool, hidden: bool, label_names: Sequence[str]) -> None:
        self._tagged = tagged
        self._hidden = hidden
        self._names = label_names

    @singledispatchmethod
    def look(self, row: DataRow) -> View:
        """The view of a row."""
        raise NotImplementedError(type(row).__name__)

    @look.register
    def _(self, row: TokenRow) -> View:
        digest = _digest(row.input_ids, row.labels)
        if self._tagged:
            tags = tuple(self._name(label) for label in row.labels if label != IGNORED)
            return View(row.origin, digest, {"text": self._tags(row)}, classes=tags)
        sequence = {"text": _masked(row.input_ids, row.labels)}
        if self._hidden:
            return View(row.origin, digest, sequence)
        carrying = [index for index, label in enumerate(row.labels) if label != IGNORED]
        ends = (row.labels[carrying[-1]],) if carrying else ()
        # The very first token never carries loss, so it is no prompt.
        return View(row.origin, digest, sequence, ends, asked=bool(carrying) and carrying[0] > 1)

    @look.register
    def _(self, row: SequenceRow) -> View:
        sequences = {
            "input": [Stretch(row.input_ids, supervised=False)],
            "output": _masked(row.labels, row.labels),
        }
        digest = _digest(row.input_ids, row.labels)
        return View(row.origin, digest, sequences, tuple(row.labels[-1:]))

    @look.register
    def _(self, row: PreferenceRow) -> View:
        sequences = {
            "chosen": _answered(row.prompt_ids, row.chosen_ids),
            "rejected": _answered(row.prompt_ids, row.rejected_ids),
        }
        digest = _digest(row.prompt_ids, row.chosen_ids, row.rejected_ids)
        ends = (*row.chosen_ids[-1:], *row.rejected_ids[-1:])
        return View(row.origin, digest, sequences, ends)

    @look.register
    def _(self, row: JudgedRow) -> View:
        verdict = "desirable" if row.desirable else "undesirable"
        sequences = {verdict: _answered(row.prompt_ids, row.completion_ids)}
        digest = _digest(row.prompt_ids, row.completion_ids, [row.desirable])
        ends = tuple(row.completion_ids[-1:])
        return View(row.origin, digest, sequences, ends, classes=(verdict,))

    @look.register
    def _(self, row: PromptRow) -> View:
        # Two rows with one prompt may ask for different answers, which stand in other columns.
        columns = json.dumps(row.columns, sort_keys=True, default=str).encode()
        digest = _digest(row.prompt_ids, [len(columns)], extra=columns)
        return View(row.origin, digest, {"prompt": [Stretch(row.prompt_ids, supervised=False)]})

    @look.register
    def _(self, row: ClassRow) -> View:
        name = self._name(row.label)
        sequence = [Stretch(row.input_ids, supervised=False)]
        digest = _digest(row.input_ids, [row.label])
        return View(row.origin, digest, {f"class {name}": sequence}, classes=(name,))

    def _name(self, label: int) -> str:
        return self._names[label] if label < len(self._names) else str(label)

    def _tags(self, row: TokenRow) -> list[Stretch]:
        return [
            Stretch([token], label != IGNORED, self._name(label) if label != IGNORED else "")
            for token, label in zip(row.input_ids, row.labels, strict=True)
        ]


def _masked(ids: Sequence[int], labels: Sequence[int]) -> list[Stretch]:
    pairs = zip(ids, labels, strict=True)
    return [
        Stretch([token for token, _ in group], carrying)
        for carrying, group in groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    ]


def _answered(prompt: list[int], answer: list[int]) -> list[Stretch]:
    return [Stretch(prompt, supervised=False), Stretch(answer, supervised=True)]


def _digest(*parts: Sequence[int], extra: bytes = b"") -> bytes:
    found = hashlib.blake2b(extra, digest_size=16)
    for part in parts:
        # The length before each part, or [1] [2, 3] would equal [1, 2] [3].
        found.update(array("q", [len(part), *part]).tobytes())
    return found.digest()
