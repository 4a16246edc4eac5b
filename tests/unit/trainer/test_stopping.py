"""Stop tokens come from the template's own words, whatever the end-of-sequence token is."""

import json
from pathlib import Path

import pytest

from finetune_trainer.sources import ModelSource
from finetune_trainer.stopping import generation_config, stop_tokens
from support.tiny_models import tiny_tokenizer

LLAMA_3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def ids(tokenizer: object, *words: str) -> list[int]:
    return sorted(tokenizer.convert_tokens_to_ids(word) for word in words)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, ("<|im_end|>",)),
        (LLAMA_3, ("<|im_end|>", "<|endoftext|>")),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", ("<|im_end|>",)),
        ("{{ raise_exception('only with tools') }}", ("<|im_end|>",)),
    ],
)
def test_stop_tokens(template: str | None, words: tuple[str, ...]) -> None:
    tokenizer = tiny_tokenizer(template)
    assert stop_tokens(tokenizer) == ids(tokenizer, *words)


def test_the_bases_own_stops_are_kept(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(LLAMA_3)
    tokenizer.pad_token = "<|endoftext|>"
    stored = {"eos_token_id": [7, 9], "temperature": 0.6}
    (tmp_path / "generation_config.json").write_text(json.dumps(stored))
    config = generation_config(ModelSource.of_folder(tmp_path, "s3://b/m"), tokenizer)
    assert config["eos_token_id"] == sorted([7, 9, *ids(tokenizer, "<|im_end|>", "<|endoftext|>")])
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert config["temperature"] == 0.6
