"""Where an answer ends: the tokens that a model was taught to stop at, for its generation config.

Used by `save` for what is published. A tokenizer's end-of-sequence token is often not the token that
ends a turn; without the latter, a chat model talks on for both sides.
"""

import json
from pathlib import Path
from typing import Any

from finetune_trainer.foreign import Tokenizer
from finetune_trainer.sources import ModelSource

GENERATION_CONFIG = "generation_config.json"
_ANSWER = "finetune"


def stop_tokens(tokenizer: Tokenizer) -> list[int]:
    """The end-of-sequence token, and the token that the chat template writes after an answer."""
    found = {tokenizer.eos_token_id, _turn_end(tokenizer)}
    return sorted(token for token in found if token is not None)


def generation_config(
    base: ModelSource, tokenizer: Tokenizer, start: int | None = None
) -> dict[str, Any]:
    """The base model's generation config, with every token that this tokenizer stops at.

    Args:
        base: The model that was tuned; of a chain, the newest config counts.
        tokenizer: With the chat template that was trained on.
        start: The token that a decoder of an encoder-decoder model begins with.
    """
    config = _stored(base)
    stops = config.get("eos_token_id")
    known = stops if isinstance(stops, list) else [stops]
    stop_ids = sorted({*stop_tokens(tokenizer), *(each for each in known if each is not None)})
    config["eos_token_id"] = stop_ids[0] if len(stop_ids) == 1 else stop_ids
    config["pad_token_id"] = tokenizer.pad_token_id
    if start is not None:
        config.setdefault("decoder_start_token_id", start)
    return config


def write(folder: Path, config: dict[str, Any]) -> None:
    """Write a generation config into an output folder."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / GENERATION_CONFIG).write_text(text, "utf-8")


def _stored(base: ModelSource) -> dict[str, Any]:
    for folder in (base.tokenizer, base.folder):
        path = folder / GENERATION_CONFIG
        if path.exists():
            found = json.loads(path.read_text("utf-8"))
            return dict(found) if isinstance(found, dict) else {}
    return {}


def _turn_end(tokenizer: Tokenizer) -> int | None:
    if not tokenizer.chat_template:
        return None
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception:  # noqa: BLE001
        # A template that wants other turns than these; the rows were rendered by it all the same.
        return None
    _, found, after = text.rpartition(_ANSWER)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
    special = [token for token in ids if token in tokenizer.added_tokens_decoder]
    return special[0] if special else None
