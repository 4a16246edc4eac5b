"""From rows to examples: recognise the format by the columns, and check every field.

Used by `data.load`. Three formats: Messages, PromptCompletion (strings or messages) and Text. One
run has one format; rows that mix formats are refused, because one of them is usually a mistake.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.read import Row
from finetune_trainer.errors import TrainerError

Message = dict[str, Any]

COLUMNS: dict[str, tuple[str, ...]] = {
    "Messages": ("messages",),
    "PromptCompletion": ("prompt", "completion"),
    "Text": ("text",),
}
ROLES = ("system", "user", "assistant")
# Keys that change what a message means; dropping them in silence would train something else.
_REFUSED_KEYS = ("tool_calls", "function_call", "tool_call_id", "weight")


@dataclass(frozen=True)
class Conversation:
    """Messages, to be rendered by the chat template.

    Attributes:
        messages: Role and content of each turn.
        prompt_length: How many of them are the prompt of a completion; None where the format has
            no such border.
        origin: File and line.
    """

    messages: tuple[Message, ...]
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


Example = Conversation | Pair | Document


def recognise(rows: Sequence[Row], declared: str) -> str:
    """The format of the rows: `Messages`, `PromptCompletion` or `Text`.

    Raises:
        TrainerError: DataFormatUnknown if rows fit no format, several, or not the declared one.
    """
    found = declared if declared != AUTO else _format_of(rows[0])
    for row in rows:
        if found in _fitting(row) and (declared != AUTO or len(_fitting(row)) == 1):
            continue
        if declared != AUTO:
            raise TrainerError(Reason.DATA_FORMAT_UNKNOWN, _not_as_declared(row, declared))
        message = f"{row.origin} is {_format_of(row)}, but {rows[0].origin} is {found}"
        hint = "One job trains on one format; convert the rows, or make two jobs."
        raise TrainerError(Reason.DATA_FORMAT_UNKNOWN, message, hint)
    return found


def to_examples(rows: Sequence[Row], data_format: str) -> list[Example]:
    """Check every row and take out what the format uses.

    Raises:
        TrainerError: DataInvalid naming the row.
    """
    makers = {"Messages": _conversation, "PromptCompletion": _completion, "Text": _document}
    return [makers[data_format](row) for row in rows]


def _format_of(row: Row) -> str:
    fitting = _fitting(row)
    if len(fitting) == 1:
        return fitting[0]
    columns = ", ".join(sorted(row.columns)) or "none"
    known = "; ".join(f"{name}: {', '.join(names)}" for name, names in COLUMNS.items())
    what = "fit several formats" if fitting else "fit no known format"
    message = f"{row.origin}: the columns ({columns}) {what}. Known are {known}"
    raise TrainerError(Reason.DATA_FORMAT_UNKNOWN, message)


def _fitting(row: Row) -> list[str]:
    return [name for name, columns in COLUMNS.items() if all(c in row.columns for c in columns)]


def _not_as_declared(row: Row, declared: str) -> str:
    expected = ", ".join(COLUMNS[declared])
    return (
        f"{row.origin}: `data.format: {declared}` needs the columns {expected}; "
        f"found {', '.join(sorted(row.columns)) or 'none'}"
    )


def _conversation(row: Row) -> Conversation:
    messages = _messages(row.columns["messages"], "messages", row.origin)
    return Conversation(messages, None, row.origin)


def _completion(row: Row) -> Example:
    prompt, completion = row.columns["prompt"], row.columns["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        if not prompt and not completion:
            raise _invalid(row.origin, "prompt and completion are both empty")
        return Pair(prompt, completion, row.origin)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise _invalid(row.origin, "prompt and completion must be both strings or both messages")
    before = _messages(prompt, "prompt", row.origin)
    after = _messages(completion, "completion", row.origin)
    if any(message["role"] != "assistant" for message in after):
        raise _invalid(row.origin, "completion: every message must have the role assistant")
    return Conversation((*before, *after), len(before), row.origin)


def _document(row: Row) -> Document:
    text = row.columns["text"]
    if not isinstance(text, str):
        raise _invalid(row.origin, "text must be a string")
    return Document(text, row.origin)


def _messages(value: object, column: str, origin: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _invalid(origin, f"{column} must be a list with at least one message")
    for number, message in enumerate(value, start=1):
        _check_message(message, f"{column}, message {number}", origin, first=number == 1)
    return tuple(value)


def _check_message(message: object, where: str, origin: str, *, first: bool) -> None:
    if not isinstance(message, dict):
        raise _invalid(origin, f"{where}: expected an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise _invalid(origin, f"{where}: role {role!r} is not one of {', '.join(ROLES)}")
    if role == "system" and not first:
        raise _invalid(origin, f"{where}: a system message can only be the first")
    if not isinstance(message.get("content"), str):
        raise _invalid(origin, f"{where}: content must be a string")
    for key in _REFUSED_KEYS:
        if message.get(key) is not None:
            raise _invalid(origin, f"{where}: key {key!r} is not understood in this version")


def _invalid(origin: str, what: str) -> TrainerError:
    return TrainerError(Reason.DATA_INVALID, f"{origin}: {what}")
