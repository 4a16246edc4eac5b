"""Checked examples: what a row says, whatever its format was.

Made by `data.formats`, turned into token rows by the preparers. Several formats come to the same
kind of example: Alpaca and ShareGPT rows are conversations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
"""One turn: its role, its content, and whatever else the template may read."""

Messages: TypeAlias = tuple[Message, ...]


@dataclass(frozen=True)
class Conversation:
    """Messages, to be rendered by the chat template.

    Attributes:
        messages: Role and content of each turn.
        prompt_length: How many of them are the prompt of a completion; None where the format has
            no such border.
        origin: File and line.
    """

    messages: Messages
    prompt_length: int | None
    origin: str


@dataclass(frozen=True)
class Pair:
    """A prompt and its completion as strings, used as they are, without a chat template."""

    prompt: str
    completion: str
    origin: str


@dataclass(frozen=True)
class Document:
    """Plain text."""

    text: str
    origin: str


@dataclass(frozen=True)
class Preference:
    """A prompt with a better and a worse answer: all strings, or all messages.

    Attributes:
        prompt: What both answers follow.
        chosen: The better answer; as messages, one assistant turn.
        rejected: The worse answer, of the same shape.
        origin: File and line.
    """

    prompt: str | Messages
    chosen: str | Messages
    rejected: str | Messages
    origin: str


@dataclass(frozen=True)
class Judged:
    """A prompt with an answer that was judged good or bad: both strings, or both messages."""

    prompt: str | Messages
    completion: str | Messages
    desirable: bool
    origin: str


@dataclass(frozen=True)
class Prompt:
    """A prompt to be answered.

    Attributes:
        prompt: Used as it is, or rendered by the chat template.
        columns: The row as it was read, for rewards that compare with another column.
        origin: File and line.
    """

    prompt: str | Messages
    columns: Mapping[str, Any]
    origin: str


@dataclass(frozen=True)
class Labelled:
    """A text (or two) with its class."""

    text: str
    text_pair: str | None
    label: str | int
    origin: str


@dataclass(frozen=True)
class Tagged:
    """Words with one tag each."""

    tokens: tuple[str, ...]
    tags: tuple[str | int, ...]
    origin: str


@dataclass(frozen=True)
class Tokenized:
    """Token ids that were made elsewhere, used as they are.

    Attributes:
        input_ids: Token ids.
        labels: The ids to be learned, -100 where no loss is taken; None for all.
        origin: File and line.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...] | None
    origin: str


Example: TypeAlias = (
    Conversation | Pair | Document | Preference | Judged | Prompt | Labelled | Tagged | Tokenized
)
