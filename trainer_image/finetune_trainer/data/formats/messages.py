"""Checking the messages of a row: roles, order, content.

Used by the formats that hold messages. A message keeps the keys that templates may read; keys whose
loss would change the meaning are refused, because dropping them would train something else.
"""

from finetune_trainer.data.examples import Message, Messages
from finetune_trainer.data.readers.row import invalid, kind

ROLES = ("system", "user", "assistant")
_REFUSED_KEYS = ("tool_calls", "function_call", "tool_call_id", "weight")
_ROLE_HINT = "Roles are system, user and assistant; tool calls are not trained in this version."


def conversation(value: object, column: str, origin: str) -> Messages:
    """The messages of a column.

    Raises:
        TrainerError: DataInvalid naming the row, the column and the message.
    """
    if not isinstance(value, list):
        hint = None
        if isinstance(value, str):
            hint = "A column of text cannot hold messages; use JSON Lines or Parquet."
        raise invalid(origin, f"{column} must be a list of messages, found {kind(value)}", hint)
    if not value:
        raise invalid(origin, f"{column} must hold at least one message")
    return tuple(
        _checked(message, f"{column}, message {number}", origin, first=number == 1)
        for number, message in enumerate(value, start=1)
    )


def prompt(value: object, column: str, origin: str) -> Messages:
    """Messages that the model is to answer: the last is not the assistant's."""
    messages = conversation(value, column, origin)
    if messages[-1]["role"] != "user":
        raise invalid(
            origin,
            f"{column}: the last message must have the role user, so that there is something to "
            f"answer; found {messages[-1]['role']}",
        )
    return messages


def answers(value: object, column: str, origin: str) -> Messages:
    """Messages that are the answer to a prompt: all are the assistant's."""
    messages = conversation(value, column, origin)
    if any(message["role"] != "assistant" for message in messages):
        raise invalid(origin, f"{column}: every message must have the role assistant")
    return messages


def answer(value: object, column: str, origin: str) -> Messages:
    """Exactly one assistant message."""
    messages = answers(value, column, origin)
    if len(messages) > 1:
        raise invalid(
            origin, f"{column}: an answer is one assistant message, found {len(messages)}"
        )
    return messages


def _checked(message: object, where: str, origin: str, *, first: bool) -> Message:
    if not isinstance(message, dict):
        raise invalid(origin, f"{where}: expected an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise invalid(
            origin, f"{where}: role {role!r} is not one of {', '.join(ROLES)}", _ROLE_HINT
        )
    if role == "system" and not first:
        raise invalid(origin, f"{where}: a system message can only be the first")
    for key in _REFUSED_KEYS:
        if message.get(key) is not None:
            raise invalid(origin, f"{where}: key {key!r} is not understood in this version")
    if not isinstance(content, str):
        raise invalid(origin, f"{where}: content must be a string, found {kind(content)}")
    if role != "system" and not content.strip():
        raise invalid(origin, f"{where}: the content is empty")
    # Tables have every key in every message; a template must not take an absent one for given.
    return {key: value for key, value in message.items() if value is not None}
