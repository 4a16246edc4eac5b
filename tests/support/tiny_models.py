"""Tiny models of each family with a tokenizer that fits, and small data that they visibly learn from.

Used by trainer unit tests and by e2e tests, which upload the folder to S3. Everything follows from
the seed; making one takes less than a second once torch is imported.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.tiny_tokenizers import CHAT_TEMPLATE, bert_tokenizer, chat_tokenizer, t5_tokenizer

COLOURS = ("red", "green", "blue", "yellow")
HEADS = 4
# Wide enough that an adapter alone, with the head frozen, can make a token likely.
SPREAD = 0.2


def tiny_model(
    folder: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    positions: int = 512,
    dtype: str = "float32",
    chat_template: str | None = CHAT_TEMPLATE,
) -> Path:
    """Writes a random model of a family (a key of `FAMILIES`) as safetensors; returns the folder."""
    import torch

    tokenizer = tokenizer_for(family, chat_template)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FAMILIES[family](len(tokenizer), hidden, layers, positions, tokenizer)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_llama(folder: Path, **options: Any) -> Path:
    """Writes a tiny LLaMA; the options are those of `tiny_model`."""
    return tiny_model(folder, "llama", **options)


def tokenizer_for(family: str, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """The family's kind of tokenizer; only decoders have a chat template."""
    texts = [row["completion"] for row in pairs(50)]
    if family == "bert":
        return bert_tokenizer([*texts, *(row["prompt"] for row in pairs(50))])
    return t5_tokenizer(texts) if family == "t5" else chat_tokenizer(texts, chat_template)


def tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """A byte-level BPE tokenizer with ChatML tokens; it has no pad token."""
    return tokenizer_for("llama", chat_template)


def _llama(vocabulary: int, hidden: int, layers: int, positions: int, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = _decoder(vocabulary, hidden, layers, positions, tokenizer)
    return LlamaForCausalLM(LlamaConfig(**shape))


def _mistral(vocabulary: int, hidden: int, layers: int, positions: int, tokenizer: Any) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    shape = _decoder(vocabulary, hidden, layers, positions, tokenizer)
    return MistralForCausalLM(MistralConfig(**shape))


def _qwen2(vocabulary: int, hidden: int, layers: int, positions: int, tokenizer: Any) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = _decoder(vocabulary, hidden, layers, positions, tokenizer)
    return Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))


def _qwen3(vocabulary: int, hidden: int, layers: int, positions: int, tokenizer: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = _decoder(vocabulary, hidden, layers, positions, tokenizer)
    tied = {"head_dim": hidden // HEADS, "tie_word_embeddings": True}
    return Qwen3ForCausalLM(Qwen3Config(**shape, **tied))


def _gpt2(vocabulary: int, hidden: int, layers: int, positions: int, tokenizer: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=hidden,
        n_layer=layers,
        n_head=HEADS,
        n_positions=positions,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=SPREAD,
    )
    return GPT2LMHeadModel(config)


def _t5(vocabulary: int, hidden: int, layers: int, _positions: int, tokenizer: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocabulary,
        d_model=hidden,
        d_kv=hidden // HEADS,
        d_ff=2 * hidden,
        num_layers=layers,
        num_heads=HEADS,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


def _bert(vocabulary: int, hidden: int, layers: int, positions: int, tokenizer: Any) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=SPREAD,
    )
    return BertForMaskedLM(config)


def _decoder(
    vocabulary: int, hidden: int, layers: int, positions: int, tokenizer: Any
) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": positions,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
        "initializer_range": SPREAD,
    }


FAMILIES: dict[str, Callable[[int, int, int, int, Any], Any]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gpt2": _gpt2,
    "t5": _t5,
    "bert": _bert,
}


def pairs(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Prompt-completion rows with a rule that is easy to learn: the answer names the colour."""
    draw = random.Random(seed)  # noqa: S311
    rows = []
    for number in range(count):
        colour = draw.choice(COLOURS)
        rows.append(
            {
                "prompt": f"Thing {number} is {colour}. Which colour? ",
                "completion": f"The colour of the thing is {colour}.",
            }
        )
    return rows


def chats(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """The same as messages."""
    return [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in pairs(count, seed=seed)
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes one JSON object a line; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
