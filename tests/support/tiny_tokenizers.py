"""Tokenizers of the three kinds that the tiny models need, trained on the spot in milliseconds.

Used by `tiny_models`. Each kind has its own special tokens; all of them see the same text.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(8))
T5_TOKENS = ("<pad>", "</s>", "<unk>", *SENTINELS)
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def chat_tokenizer(texts: Sequence[str], chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Byte-level BPE with ChatML tokens, for decoders; it has no pad token."""
    from transformers import PreTrainedTokenizerFast

    bpe = _byte_level(texts, SPECIAL_TOKENS)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>")
    tokenizer.chat_template = chat_template
    return tokenizer


def t5_tokenizer(texts: Sequence[str]) -> Any:
    """Byte-level BPE with pad, end and sentinel tokens; like T5's, it ends each text with `</s>`."""
    from transformers import PreTrainedTokenizerFast

    bpe = _byte_level(texts, T5_TOKENS)
    bpe.post_processor = _around(bpe, "$A </s>", ("</s>",))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=list(SENTINELS),
    )


def bert_tokenizer(texts: Sequence[str]) -> Any:
    """Lower-case WordPiece; like BERT's, it puts a text between `[CLS]` and `[SEP]`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.WordPiece(_pieces(texts, 200), unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    pieces.post_processor = _around(pieces, "[CLS] $A [SEP]", ("[CLS]", "[SEP]"))
    names = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **special)


def _pieces(texts: Sequence[str], size: int) -> dict[str, int]:
    """Characters and the commonest words; the library's own training draws among equals by lot."""
    words = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    characters = sorted(set("".join(words)))
    commonest = sorted(words, key=lambda word: (-words[word], word))
    tokens = [*BERT_TOKENS, *characters, *(f"##{each}" for each in characters), *commonest]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens)) if number < size}


def _byte_level(texts: Sequence[str], special: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


def _around(tokenizer: Any, pattern: str, tokens: Sequence[str]) -> Any:
    from tokenizers import processors

    pair = f"{pattern} {pattern.replace('$A', '$B').removeprefix('[CLS] ')}"
    ids = [(token, tokenizer.token_to_id(token)) for token in tokens]
    return processors.TemplateProcessing(single=pattern, pair=pair, special_tokens=ids)
