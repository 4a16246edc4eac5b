"""`finetune-trainer generate`: what an output says to prompts, as text or as JSON lines.

Called by `__main__`. Language models write, token by token for a single prompt; other models give
classes, tags, fillings or a score. Nothing is written but to the stream that is given.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from transformers import TextStreamer

from finetune_trainer import answers, predictions
from finetune_trainer.answers import Sampling
from finetune_trainer.commands import output, prompts
from finetune_trainer.commands.output import Workplace
from finetune_trainer.commands.prompts import Asked
from finetune_trainer.foreign import Foreign, Model, Tokenizer
from finetune_trainer.opening import head_of
from finetune_trainer.output_manifest import OutputManifest
from finetune_trainer.sources import FoundModel

BATCH = 8


@dataclass(frozen=True)
class Wanted:
    """What `generate` was asked.

    Attributes:
        asked: The prompts, at least one.
        sampling: How answers are drawn.
        raw: Take texts as they are, without a chat template.
        system: System message before each text.
        json_lines: Print JSON lines, and not the bare answer of one prompt.
    """

    asked: Sequence[Asked]
    sampling: Sampling
    raw: bool = False
    system: str | None = None
    json_lines: bool = False


class Streamed(TextStreamer):
    """Writes an answer to a stream while it is generated."""

    def __init__(self, tokenizer: Tokenizer, stream: TextIO, *, skip_prompt: bool) -> None:
        super().__init__(tokenizer, skip_prompt=skip_prompt, skip_special_tokens=True)
        self._stream = stream

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each piece of text that will not change any more."""
        self._stream.write(text + ("\n" if stream_end else ""))
        self._stream.flush()


def run(found: FoundModel, wanted: Wanted, place: Workplace, stream: TextIO) -> None:
    """Answer the prompts.

    Raises:
        TrainerError: The output cannot be had or loaded, or a prompt cannot be used.
    """
    model, tokenizer = output.load(place, found)
    manifest = found.output.manifest if found.output else None
    asked = _rendered(wanted, manifest, tokenizer)
    predict = predictions.predictor(head_of(manifest))
    if predict:
        for each in asked:
            text = answers.prompt_text(tokenizer, each.prompt, each.origin)
            _print(stream, each, predict(model, tokenizer, text), json_lines=wanted.json_lines)
    elif wanted.json_lines:
        _answer_all(model, tokenizer, asked, wanted.sampling, stream)
    else:
        stream_answer(model, tokenizer, asked[0], wanted.sampling, stream)


def stream_answer(
    model: Model, tokenizer: Tokenizer, asked: Asked, sampling: Sampling, stream: TextIO
) -> str:
    """Write the answer to one prompt as it comes; returns its text."""
    encoder = model.config.is_encoder_decoder
    ids = answers.prompt_ids(tokenizer, asked.prompt, asked.origin, encoder=encoder)
    # An encoder-decoder's streamer never sees the prompt.
    streamer: Foreign = Streamed(tokenizer, stream, skip_prompt=not encoder)
    written = answers.answer(model, tokenizer, [ids], sampling, streamer)[0]
    return str(tokenizer.decode(written, skip_special_tokens=True))


def _rendered(
    wanted: Wanted, manifest: OutputManifest | None, tokenizer: Tokenizer
) -> Sequence[Asked]:
    if wanted.raw or not tokenizer.chat_template or not prompts.is_chat(manifest):
        return wanted.asked
    return [prompts.as_chat(each, wanted.system) for each in wanted.asked]


def _answer_all(
    model: Model, tokenizer: Tokenizer, asked: Sequence[Asked], sampling: Sampling, stream: TextIO
) -> None:
    encoder = model.config.is_encoder_decoder
    ids = [
        answers.prompt_ids(tokenizer, each.prompt, each.origin, encoder=encoder) for each in asked
    ]
    for first in range(0, len(asked), BATCH):
        batch = slice(first, first + BATCH)
        written = answers.answer(model, tokenizer, ids[batch], sampling)
        for each, tokens in zip(asked[batch], written, strict=True):
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            _print(stream, each, text, json_lines=True)


def _print(stream: TextIO, asked: Asked, said: Any, *, json_lines: bool) -> None:  # noqa: ANN401
    if json_lines:
        line = {"prompt": asked.prompt, "answer": said}
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    else:
        stream.writelines(
            "\t".join(_cell(value) for value in each.values()) + "\n" for each in said
        )
    stream.flush()


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
