"""`finetune-trainer chat`: a conversation with an output, at a terminal or from a pipe.

Called by `__main__`. Each line is a user's message; the answer is written as it comes. The oldest
turns are dropped, and said to be, when the model has no room for more.
"""

from typing import TextIO

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import answers
from finetune_trainer.answers import Messages, Sampling
from finetune_trainer.commands import output
from finetune_trainer.commands.generate import stream_answer
from finetune_trainer.commands.output import Workplace
from finetune_trainer.commands.prompts import Asked
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model, Tokenizer
from finetune_trainer.heads import CAUSAL
from finetune_trainer.model import position_limit
from finetune_trainer.opening import head_of
from finetune_trainer.sources import FoundModel

HELP = "Type a message; /new begins anew, /quit (or the end of the input) ends."


def run(
    found: FoundModel,
    sampling: Sampling,
    place: Workplace,
    streams: tuple[TextIO, TextIO, TextIO],
    system: str | None = None,
) -> None:
    """Talk until the input ends.

    Args:
        found: The output.
        sampling: How answers are drawn.
        place: Where to work.
        streams: Input, output, and where remarks go.
        system: System message at the beginning.

    Raises:
        TrainerError: The output cannot be had, or is no model to talk with.
    """
    uri = found.uri
    head = head_of(found.output.manifest if found.output else None)
    if head is not CAUSAL:
        message = f"{uri} is {head.words}, so there is nobody to talk with"
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message, "Use `finetune-trainer generate`.")
    model, tokenizer = output.load(place, found)
    if not tokenizer.chat_template:
        message = f"{uri} has no chat template"
        raise TrainerError(
            Reason.CHAT_TEMPLATE_ERROR, message, "Use `finetune-trainer generate --raw`."
        )
    _talk(_Talk(model, tokenizer, sampling, system), streams)


class _Talk:
    """A conversation and its model."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, sampling: Sampling, system: str | None
    ) -> None:
        self._model, self._tokenizer, self._sampling = model, tokenizer, sampling
        self._system: Messages = [{"role": "system", "content": system}] if system else []
        self._turns: Messages = []

    def reset(self) -> None:
        """Forget everything but the system message."""
        self._turns = []

    def say(self, text: str, stream: TextIO) -> int:
        """Answer a message; returns how many old turns were dropped for it."""
        self._turns.append({"role": "user", "content": text})
        dropped = self._fit()
        asked = Asked([*self._system, *self._turns], "the chat")
        said = stream_answer(self._model, self._tokenizer, asked, self._sampling, stream)
        self._turns.append({"role": "assistant", "content": said})
        return dropped

    def _fit(self) -> int:
        limit, before = position_limit(self._model.config), len(self._turns)
        while limit and self._length() + self._sampling.max_new_tokens > limit:
            if len(self._turns) <= 2:
                break
            del self._turns[:2]
        return before - len(self._turns)

    def _length(self) -> int:
        chat = [*self._system, *self._turns]
        return len(answers.prompt_ids(self._tokenizer, chat, "the chat"))


def _talk(talk: _Talk, streams: tuple[TextIO, TextIO, TextIO]) -> None:
    given, said, remarks = streams
    at_terminal = given.isatty()
    if at_terminal:
        remarks.write(f"{HELP}\n")
    while True:
        if at_terminal:
            remarks.write("> ")
            remarks.flush()
        line = given.readline()
        text = line.strip()
        if not line or text == "/quit":
            return
        if text == "/new":
            talk.reset()
        elif text:
            dropped = talk.say(text, said)
            if dropped:
                remarks.write(f"({dropped} old turns were dropped: the model has no room)\n")
