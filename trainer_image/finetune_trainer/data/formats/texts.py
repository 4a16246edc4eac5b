"""Rows that a language model learns to continue: Messages, PromptCompletion, Text, Alpaca, ShareGPT.

Used by `data.formats`. Each function checks one row and takes out what its format uses.
"""

from finetune_trainer.data.examples import Conversation, Document, Example, Message, Pair
from finetune_trainer.data.formats import messages
from finetune_trainer.data.readers.row import Row, invalid, kind

# What ShareGPT dumps call the speakers.
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}


def from_messages(row: Row) -> Conversation:
    """Format Messages: `messages`."""
    found = messages.conversation(row.columns["messages"], "messages", row.origin)
    return Conversation(found, None, row.origin)


def from_completion(row: Row) -> Example:
    """Format PromptCompletion: `prompt` and `completion`, both strings or both messages."""
    prompt, completion = row.columns["prompt"], row.columns["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        if not prompt and not completion:
            raise invalid(row.origin, "prompt and completion are both empty")
        return Pair(prompt, completion, row.origin)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise invalid(row.origin, "prompt and completion must be both strings or both messages")
    before = messages.conversation(prompt, "prompt", row.origin)
    after = messages.answers(completion, "completion", row.origin)
    return Conversation((*before, *after), len(before), row.origin)


def from_text(row: Row) -> Document:
    """Format Text: `text`."""
    return Document(string(row, "text"), row.origin)


def from_alpaca(row: Row) -> Conversation:
    """Format Alpaca: `instruction` and `output`, with optional `input` and `system`.

    The input follows the instruction after an empty line, in one user message.
    """
    if row.columns.get("history"):
        raise invalid(row.origin, "history is not understood in this version", "Use Messages.")
    parts = [string(row, "instruction"), optional_string(row, "input")]
    question = "\n\n".join(part for part in parts if part.strip())
    if not question:
        raise invalid(row.origin, "instruction and input are both empty")
    answer = string(row, "output")
    if not answer.strip():
        raise invalid(row.origin, "output is empty")
    turns = [
        *_system(row),
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return Conversation(tuple(turns), len(turns) - 1, row.origin)


def from_sharegpt(row: Row) -> Conversation:
    """Format ShareGPT: `conversations` of `from` and `value`, with an optional `system` column."""
    turns = row.columns["conversations"]
    if not isinstance(turns, list) or not turns:
        raise invalid(row.origin, "conversations must be a list with at least one message")
    renamed = [_turn(turn, number, row.origin) for number, turn in enumerate(turns, start=1)]
    found = messages.conversation([*_system(row), *renamed], "conversations", row.origin)
    return Conversation(found, None, row.origin)


def string(row: Row, column: str) -> str:
    """A column that must be a string."""
    value = row.columns[column]
    if not isinstance(value, str):
        raise invalid(row.origin, f"{column} must be a string, found {kind(value)}")
    return value


def optional_string(row: Row, column: str) -> str:
    """A column that may be absent or null, which is the empty string."""
    return string(row, column) if row.columns.get(column) is not None else ""


def _system(row: Row) -> list[Message]:
    system = optional_string(row, "system")
    return [{"role": "system", "content": system}] if system.strip() else []


def _turn(turn: object, number: int, origin: str) -> object:
    where = f"conversations, message {number}"
    if not isinstance(turn, dict):
        raise invalid(origin, f"{where}: expected an object with from and value")
    if "role" in turn and "from" not in turn:
        return turn
    speaker = turn.get("from")
    if speaker not in _SPEAKERS:
        known = ", ".join(_SPEAKERS)
        raise invalid(origin, f"{where}: from {speaker!r} is not one of {known}")
    return {"role": _SPEAKERS[speaker], "content": turn.get("value")}
