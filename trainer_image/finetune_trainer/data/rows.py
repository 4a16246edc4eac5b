"""The rows that recipes train on: token ids by the kind of row, each with its file and line.

Made by the preparers of `data`, read by recipes, by packing and by the data contract. A row is
tokenized once, by us; what is here is final. Nothing here knows a tokenizer or a tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

IGNORED = -100
"""The label of a token that carries no loss."""


class DataRow(Protocol):
    """What every kind of row can say about itself."""

    @property
    def origin(self) -> str:
        """File and line."""
        ...

    @property
    def length(self) -> int:
        """Tokens that the row takes up in a batch."""
        ...

    @property
    def supervised(self) -> int:
        """Tokens (or labels) that teach something."""
        ...

    def truncated(self, length: int) -> Self:
        """The row cut to at most `length` tokens."""
        ...


def _cut(values: list[int], length: int, closing: int) -> list[int]:
    if len(values) <= length or not closing:
        return values[:length]
    return [*values[: length - closing], *values[-closing:]]


def _count(labels: list[int]) -> int:
    return sum(label != IGNORED for label in labels)


@dataclass(frozen=True)
class TokenRow:
    """One sequence with a label a token: language models and token classification.

    Attributes:
        input_ids: Token ids.
        labels: The same ids where loss is taken, -100 elsewhere; for token classification, the
            number of the tag at the first token of each word; for fill-mask, the ids that may be
            hidden. Of equal length.
        origin: File and line.
        closing: Special tokens at the end that stay when the row is cut.
    """

    input_ids: list[int]
    labels: list[int]
    origin: str
    closing: int = 0

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.input_ids)

    @property
    def supervised(self) -> int:
        """Tokens that carry loss."""
        return _count(self.labels)

    def excerpt(self, length: int) -> "TokenRow":
        """At most `length` tokens that stand together, one that carries loss among them if there is any."""
        first = next((at for at, label in enumerate(self.labels) if label != IGNORED), 0)
        start = max(0, min(first - length // 2, self.length - length))
        part = slice(start, start + length)
        return replace(self, input_ids=self.input_ids[part], labels=self.labels[part])

    def truncated(self, length: int) -> "TokenRow":
        """The first tokens, and the closing ones."""
        ids, labels = (_cut(part, length, self.closing) for part in (self.input_ids, self.labels))
        return replace(self, input_ids=ids, labels=labels)


@dataclass(frozen=True)
class SequenceRow:
    """Input and output of an encoder-decoder model; their lengths differ.

    Attributes:
        input_ids: Tokens that the encoder reads, its end token last.
        labels: Tokens that the decoder writes, its end token last.
        origin: File and line.
        closing: Special tokens at the end of the input that stay when the row is cut.
    """

    input_ids: list[int]
    labels: list[int]
    origin: str
    closing: int = 0

    @property
    def length(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.input_ids), len(self.labels))

    @property
    def supervised(self) -> int:
        """Tokens that carry loss."""
        return _count(self.labels)

    def truncated(self, length: int) -> "SequenceRow":
        """Each side cut to its first `length` tokens; the input keeps its closing ones."""
        ids = _cut(self.input_ids, length, self.closing)
        return replace(self, input_ids=ids, labels=self.labels[:length])


@dataclass(frozen=True)
class PreferenceRow:
    """A prompt with a better and a worse answer.

    Attributes:
        prompt_ids: Tokens that both sequences begin with.
        chosen_ids: The better answer, its end token last.
        rejected_ids: The worse answer, its end token last.
        origin: File and line.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    origin: str

    @property
    def length(self) -> int:
        """Tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def supervised(self) -> int:
        """Answer tokens of both sequences; 0 if the answers are equal or one is empty."""
        compared = self.chosen_ids and self.rejected_ids and not self.identical
        return len(self.chosen_ids) + len(self.rejected_ids) if compared else 0

    @property
    def identical(self) -> bool:
        """Whether the answers do not differ."""
        return self.chosen_ids == self.rejected_ids

    def truncated(self, length: int) -> "PreferenceRow":
        """The prompt in full and the beginning of each answer; empty if the prompt fills it all."""
        room = max(0, length - len(self.prompt_ids))
        chosen, rejected = self.chosen_ids[:room], self.rejected_ids[:room]
        return replace(self, chosen_ids=chosen, rejected_ids=rejected)


@dataclass(frozen=True)
class JudgedRow:
    """A prompt with one answer that was judged good or bad.

    Attributes:
        prompt_ids: Tokens before the answer.
        completion_ids: The answer, its end token last.
        desirable: Whether it was judged good.
        origin: File and line.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    desirable: bool
    origin: str

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def supervised(self) -> int:
        """Tokens of the answer."""
        return len(self.completion_ids)

    def truncated(self, length: int) -> "JudgedRow":
        """The prompt in full and the beginning of the answer."""
        room = max(0, length - len(self.prompt_ids))
        return replace(self, completion_ids=self.completion_ids[:room])


@dataclass(frozen=True)
class PromptRow:
    """A prompt that the model will answer while it is trained.

    Attributes:
        prompt_ids: Tokens up to where the model begins to write.
        columns: The row as it was read, for rewards that compare with another column.
        origin: File and line.
    """

    prompt_ids: list[int]
    columns: Mapping[str, Any]
    origin: str

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids)

    @property
    def supervised(self) -> int:
        """1: what is learned from is written later, and judged by the rewards."""
        return 1

    def truncated(self, length: int) -> "PromptRow":
        """The last `length` tokens: the question stands at the end of a prompt."""
        return replace(self, prompt_ids=self.prompt_ids[-length:])


@dataclass(frozen=True)
class ClassRow:
    """A text and the number of its class.

    Attributes:
        input_ids: Tokens of the text, with the special tokens that the model expects.
        label: Number of the class.
        origin: File and line.
        segment_ids: Which of two texts each token belongs to (0 or 1), for models that ask; empty
            for one text.
        closing: Special tokens at the end that stay when the row is cut.
    """

    input_ids: list[int]
    label: int
    origin: str
    segment_ids: list[int] = field(default_factory=list)
    closing: int = 0

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.input_ids)

    @property
    def supervised(self) -> int:
        """1: the label."""
        return 1

    def truncated(self, length: int) -> "ClassRow":
        """The first tokens, and the closing ones."""
        ids = _cut(self.input_ids, length, self.closing)
        return replace(
            self, input_ids=ids, segment_ids=_cut(self.segment_ids, length, self.closing)
        )
