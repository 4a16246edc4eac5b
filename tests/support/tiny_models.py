"""A tiny LLaMA with a tokenizer, and small data that it can visibly learn from.

Used by trainer unit tests and by e2e tests, which upload the folder to S3. Everything follows from
the seed; making one takes less than a second once torch is imported.
"""

import json
import random
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
COLOURS = ("red", "green", "blue", "yellow")


def tiny_llama(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    positions: int = 512,
    dtype: str = "float32",
    chat_template: str | None = CHAT_TEMPLATE,
) -> Path:
    """Writes a random LLaMA as safetensors with a byte-level BPE tokenizer; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(chat_template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        # Wide enough that an adapter alone, with the head frozen, can make a token likely.
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """A byte-level BPE tokenizer trained on the spot, with ChatML tokens; it has no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((row["completion"] for row in pairs(50)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>")
    tokenizer.chat_template = chat_template
    return tokenizer


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
