"""From examples to text with the stretches that carry loss, by position and never by token.

Used by `data.encode`. A chat is rendered once in full and once up to the beginning and the end of each
turn that is trained; what the template writes for the turns before must stand, unchanged, at the
beginning of the full text, or positions would mean nothing and the run is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.bounded import bounded_text, bounded_time
from finetune_trainer.data.examples import Conversation, Document, Message, Messages, Pair
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Tokenizer


@dataclass(frozen=True)
class Span:
    """A stretch of characters: from `start` up to and without `end`."""

    start: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """Text to be tokenized.

    Attributes:
        text: The whole row.
        spans: Stretches that carry loss, in order.
        templated: Whether a chat template wrote it (and with it the special tokens at its ends).
        origin: File and line.
    """

    text: str
    spans: tuple[Span, ...]
    templated: bool
    origin: str


def render(example: Conversation | Pair | Document, loss: str, tokenizer: Tokenizer) -> Rendered:
    """The example as text.

    Args:
        example: A checked row.
        loss: `Completions`, `Assistant` or `All`.
        tokenizer: Has the chat template; used for conversations only.

    Raises:
        TrainerError: ChatTemplateError, naming the row and, where jinja knows it, the template's
            line.
    """
    if isinstance(example, Document):
        return Rendered(example.text, (Span(0, len(example.text)),), False, example.origin)
    if isinstance(example, Pair):
        text = example.prompt + example.completion
        start = 0 if loss == "All" else len(example.prompt)
        return Rendered(text, (Span(start, len(text)),), False, example.origin)
    return _render_conversation(example, loss, tokenizer)


def render_answer(
    prompt: str | Messages, answer: str | Messages, origin: str, tokenizer: Tokenizer
) -> Rendered:
    """A prompt with an answer to it, which alone carries loss.

    Args:
        prompt: A string, or messages.
        answer: Of the same kind.
        origin: File and line.
        tokenizer: Has the chat template; used for messages only.

    Raises:
        TrainerError: ChatTemplateError.
    """
    if isinstance(prompt, str) or isinstance(answer, str):
        return render(Pair(str(prompt), str(answer), origin), "Completions", tokenizer)
    chat = Conversation((*prompt, *answer), len(prompt), origin)
    return render(chat, "Completions", tokenizer)


def render_prompt(prompt: str | Messages, origin: str, tokenizer: Tokenizer) -> Rendered:
    """A prompt up to where the model begins to write; nothing carries loss.

    Raises:
        TrainerError: ChatTemplateError.
    """
    if isinstance(prompt, str):
        return Rendered(prompt, (), False, origin)
    chat = _Chat(Conversation(prompt, len(prompt), origin), tokenizer)
    return Rendered(chat.text(len(prompt), answer=True), (), True, origin)


def _render_conversation(example: Conversation, loss: str, tokenizer: Tokenizer) -> Rendered:
    chat = _Chat(example, tokenizer)
    text = chat.text(len(example.messages))
    if loss == "All":
        spans: tuple[Span, ...] = (_without_trailing_space(text, Span(0, len(text))),)
    else:
        spans = tuple(chat.span(index, text) for index in _trained_turns(example, loss))
    return Rendered(text, spans, True, example.origin)


def _trained_turns(example: Conversation, loss: str) -> Sequence[int]:
    turns = [i for i, message in enumerate(example.messages) if message["role"] == "assistant"]
    if loss == "Assistant":
        return turns
    if example.prompt_length is not None:
        return [turn for turn in turns if turn >= example.prompt_length]
    return turns[-1:]


@dataclass(frozen=True)
class _Chat:
    """One conversation with the template that renders it."""

    example: Conversation
    tokenizer: Tokenizer

    def text(self, count: int, *, answer: bool = False) -> str:
        """The first `count` messages; with `answer`, up to where the model would begin to write."""
        messages: list[Message] = list(self.example.messages[:count])
        try:
            with bounded_time():
                rendered = self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=answer
                )
            return bounded_text(rendered)
        except Exception as error:  # noqa: BLE001
            # A template is a program: it may raise anything.
            raise template_error(error, self.example.origin) from None

    def span(self, index: int, text: str) -> Span:
        """Where turn `index` stands in the full text, its terminator included."""
        before = self._prefix(self.text(index, answer=True) if index else "", text, index)
        through = self._prefix(self.text(index + 1), text, index)
        if through < before:
            raise self._unfit(index)
        return _without_trailing_space(text, Span(before, through))

    def _prefix(self, rendered: str, text: str, index: int) -> int:
        if text.startswith(rendered):
            return len(rendered)
        # Templates may end a whole chat otherwise than a turn within it, by white space only.
        stripped = rendered.rstrip()
        if stripped and text.startswith(stripped):
            return len(stripped)
        raise self._unfit(index)

    def _unfit(self, index: int) -> TrainerError:
        message = (
            f"{self.example.origin}: the chat template writes the turns before message "
            f"{index + 1} differently once that message follows, so the tokens that carry loss "
            "cannot be told by position"
        )
        hint = (
            "Set `data.chatTemplate` to a template that renders each turn by itself, "
            "or use prompt and completion columns."
        )
        return TrainerError(Reason.CHAT_TEMPLATE_ERROR, message, hint)


def template_error(error: Exception, origin: str) -> TrainerError:
    """The failure of a template, with its line where jinja knows it."""
    line = getattr(error, "lineno", None) or _template_line(error)
    where = f" at line {line}" if line else ""
    message = f"{origin}: the chat template fails{where}: {type(error).__name__}: {error}"
    return TrainerError(Reason.CHAT_TEMPLATE_ERROR, message[:1500])


def _template_line(error: Exception) -> int | None:
    line, trace = None, error.__traceback__
    while trace:
        # jinja gives the frames of a template this name, with the template's own line numbers.
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _without_trailing_space(text: str, span: Span) -> Span:
    # What follows a turn's terminator (mostly a line break) is written by the template, not the model.
    return Span(span.start, span.start + len(text[span.start : span.end].rstrip()))
