"""Rows that judge or ask: Preference, UnpairedPreference, PromptOnly.

Used by `data.formats`. A pair of chats may repeat the prompt in both; what they have in common at
their beginning is then the prompt.
"""

from collections.abc import Sequence

from finetune_trainer.data.examples import Judged, Message, Messages, Preference, Prompt
from finetune_trainer.data.formats import messages
from finetune_trainer.data.readers.row import Row, invalid, kind

_NO_PROMPT = "Give the question in a `prompt` column."
_VERDICTS = {"true": True, "1": True, "false": False, "0": False}


def from_preference(row: Row) -> Preference:
    """Format Preference: `chosen` and `rejected`, with `prompt` or a common beginning."""
    chosen, rejected = row.columns["chosen"], row.columns["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _strings(row, chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise invalid(row.origin, "chosen and rejected must be both strings or both messages")
    better = messages.conversation(chosen, "chosen", row.origin)
    worse = messages.conversation(rejected, "rejected", row.origin)
    prompt = row.columns.get("prompt")
    if better[0]["role"] == worse[0]["role"] == "assistant" and prompt is not None:
        asked = _asked(prompt, row.origin)
        return _preference(asked, better, worse, row)
    return _common(row, better, worse)


def from_judged(row: Row) -> Judged:
    """Format UnpairedPreference: `prompt`, `completion` and `label` (true or false)."""
    prompt, completion = row.columns["prompt"], row.columns["completion"]
    desirable = _verdict(row.columns["label"], row.origin)
    if isinstance(prompt, str) and isinstance(completion, str):
        _require_text(prompt, "prompt", row.origin)
        return Judged(prompt, completion, desirable, row.origin)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise invalid(row.origin, "prompt and completion must be both strings or both messages")
    asked = messages.prompt(prompt, "prompt", row.origin)
    answer = messages.answer(completion, "completion", row.origin)
    return Judged(asked, answer, desirable, row.origin)


def from_prompt(row: Row) -> Prompt:
    """Format PromptOnly: `prompt`; all columns are kept for the rewards."""
    prompt = row.columns["prompt"]
    if isinstance(prompt, str):
        _require_text(prompt, "prompt", row.origin)
        return Prompt(prompt, row.columns, row.origin)
    return Prompt(messages.prompt(prompt, "prompt", row.origin), row.columns, row.origin)


def _strings(row: Row, chosen: str, rejected: str) -> Preference:
    prompt = row.columns.get("prompt")
    if isinstance(prompt, str):
        _require_text(prompt, "prompt", row.origin)
        return Preference(prompt, chosen, rejected, row.origin)
    if prompt is not None:
        message = "prompt, chosen and rejected must be all strings or all messages"
        raise invalid(row.origin, message)
    shared = _beginning(chosen, rejected)
    # The border between prompt and answer is where a word begins, its leading space included.
    shared = shared if chosen == rejected else shared[: _last_space(shared)]
    shared = shared.rstrip()
    if not shared:
        what = "chosen and rejected have no common beginning, so there is no prompt"
        raise invalid(row.origin, what, _NO_PROMPT)
    return Preference(shared, chosen[len(shared) :], rejected[len(shared) :], row.origin)


def _beginning(one: str, other: str) -> str:
    pairs = enumerate(zip(one, other, strict=False))
    differs = next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
    return one[:differs]


def _last_space(text: str) -> int:
    return max((index for index, char in enumerate(text) if char.isspace()), default=0)


def _common(row: Row, better: Messages, worse: Messages) -> Preference:
    length = _common_length(better, worse)
    if not length:
        what = "chosen and rejected have no common first message, so there is no prompt"
        raise invalid(row.origin, what, _NO_PROMPT)
    before = better[:length]
    prompt = row.columns.get("prompt")
    if prompt is not None and not _repeats(before, prompt):
        what = "prompt is not what chosen and rejected begin with"
        raise invalid(row.origin, what, "Leave it out, or let both hold the answer only.")
    return _preference(before, better[length:], worse[length:], row)


def _preference(
    prompt: Sequence[Message], better: Sequence[Message], worse: Sequence[Message], row: Row
) -> Preference:
    return Preference(
        messages.prompt(list(prompt), "prompt", row.origin),
        messages.answer(list(better), "chosen (after the prompt)", row.origin),
        messages.answer(list(worse), "rejected (after the prompt)", row.origin),
        row.origin,
    )


def _common_length(better: Messages, worse: Messages) -> int:
    # Equal answers are told later, with their number; at least one message of each is its answer.
    longest = min(len(better), len(worse)) - 1
    for index in range(longest):
        if better[index] != worse[index]:
            return index
    return longest


def _repeats(before: Sequence[Message], prompt: object) -> bool:
    if isinstance(prompt, str):
        return any(message["content"].strip() == prompt.strip() for message in before)
    return list(before) == prompt


def _asked(prompt: object, origin: str) -> Messages:
    if not isinstance(prompt, str):
        return messages.prompt(prompt, "prompt", origin)
    _require_text(prompt, "prompt", origin)
    return ({"role": "user", "content": prompt},)


def _require_text(value: str, column: str, origin: str) -> None:
    if not value.strip():
        raise invalid(origin, f"{column} is empty")


def _verdict(value: object, origin: str) -> bool:
    if isinstance(value, str):
        verdict = _VERDICTS.get(value.strip().lower())
        if verdict is not None:
            return verdict
    elif value in (0, 1):
        return bool(value)
    what = f"label must be true or false (or 1 or 0), found {kind(value)}"
    raise invalid(origin, what if value is None else f"{what}: {value!r}"[:300])
