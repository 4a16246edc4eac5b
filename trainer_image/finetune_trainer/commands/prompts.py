"""Prompts of the command line: one text, or a file with a JSON object a line.

Used by `generate`. A line holds `prompt` (a text or a list of messages) or `messages`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.answers import Messages, Prompt
from finetune_trainer.errors import TrainerError
from finetune_trainer.output_manifest import OutputManifest

# Rows of these formats are trained on as they are, though the tokenizer may have a chat template.
_PLAIN = ("PromptCompletion", "Text", "Tokenized", "Labelled")


@dataclass(frozen=True)
class Asked:
    """A prompt.

    Attributes:
        prompt: Text or messages.
        origin: What messages call it.
    """

    prompt: Prompt
    origin: str

    @property
    def text(self) -> str:
        """The text, or the last message's."""
        return self.prompt if isinstance(self.prompt, str) else str(self.prompt[-1]["content"])


def of_file(path: Path) -> Iterator[Asked]:
    """The prompts of a JSONL file.

    Raises:
        TrainerError: DataNotFound or DataInvalid, with the line.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise TrainerError(Reason.DATA_NOT_FOUND, f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TrainerError(Reason.DATA_INVALID, f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Asked(_prompt(line, f"{path} line {number}"), f"{path} line {number}")


def is_chat(manifest: OutputManifest | None) -> bool:
    """Whether a text is a user's message to this output, if it has a chat template at all."""
    resolved = manifest.resolved if manifest else []
    return not any(each.field == "data.format" and each.value in _PLAIN for each in resolved)


def as_chat(asked: Asked, system: str | None) -> Asked:
    """A text as a user's message, after the system's if there is one; a chat as it is."""
    if not isinstance(asked.prompt, str):
        return asked
    messages: Messages = [{"role": "user", "content": asked.prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return Asked(messages, asked.origin)


def _prompt(line: str, origin: str) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TrainerError(Reason.DATA_INVALID, f"{origin}: not valid JSON: {error}") from None
    found = row.get("messages", row.get("prompt")) if isinstance(row, dict) else None
    if isinstance(found, str) and found:
        return found
    if isinstance(found, list) and found and all(_is_message(each) for each in found):
        return found
    message = f"{origin}: `prompt` must be a text or messages with `role` and `content`"
    raise TrainerError(Reason.DATA_INVALID, message)


def _is_message(each: object) -> bool:
    return (
        isinstance(each, dict)
        and isinstance(each.get("role"), str)
        and isinstance(each.get("content"), str)
    )
