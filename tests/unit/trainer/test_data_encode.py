"""Which tokens carry loss, told on real tokens with a real tokenizer."""

import signal
from typing import Any

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data import bounded
from finetune_trainer.data import render as render_module
from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.examples import Conversation, Document, Pair
from finetune_trainer.data.render import render
from finetune_trainer.data.rows import IGNORED, TokenRow
from finetune_trainer.errors import TrainerError
from support.tiny_models import CHAT_TEMPLATE, tiny_tokenizer

TURNS = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "first?"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "second?"},
    {"role": "assistant", "content": "two"},
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def encode(example: Conversation | Pair | Document, loss: str, tokenizer: Any) -> TokenRow:
    (row,) = Encoder(tokenizer).encode([render(example, loss, tokenizer)])
    assert len(row.labels) == len(row.input_ids)
    assert all(
        label in (IGNORED, token) for label, token in zip(row.labels, row.input_ids, strict=True)
    )
    return row


def trained(row: TokenRow, tokenizer: Any) -> list[str]:
    """Each unbroken stretch of trained tokens, as text."""
    stretches: list[list[int]] = [[]]
    for label in row.labels:
        if label != IGNORED:
            stretches[-1].append(label)
        elif stretches[-1]:
            stretches.append([])
    return [tokenizer.decode(each) for each in stretches if each]


def conversation(*turns: dict[str, str], prompt_length: int | None = None) -> Conversation:
    return Conversation(turns or TURNS, prompt_length, "t line 1")


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("Completions", ["two<|im_end|>"]),
        ("Assistant", ["one<|im_end|>", "two<|im_end|>"]),
    ],
)
def test_assistant_turns_with_their_terminator(
    loss: str, expected: list[str], tokenizer: Any
) -> None:
    row = encode(conversation(), loss, tokenizer)
    assert trained(row, tokenizer) == expected
    whole = tokenizer.apply_chat_template(list(TURNS), tokenize=False)
    assert tokenizer.decode(row.input_ids) == whole


def test_all_tokens_but_the_first(tokenizer: Any) -> None:
    row = encode(conversation(), "All", tokenizer)
    assert row.labels[0] == IGNORED
    assert trained(row, tokenizer)[0].startswith("system\nbe brief<|im_end|>\n<|im_start|>user")
    assert trained(row, tokenizer)[0].endswith("two<|im_end|>")


def test_completion_messages(tokenizer: Any) -> None:
    row = encode(conversation(prompt_length=2), "Completions", tokenizer)
    assert trained(row, tokenizer) == ["one<|im_end|>", "two<|im_end|>"]


def test_masks_are_by_position_not_by_token(tokenizer: Any) -> None:
    same = "the same words"
    turns = ({"role": "user", "content": same}, {"role": "assistant", "content": same})
    row = encode(conversation(*turns), "Completions", tokenizer)
    assert trained(row, tokenizer) == [same + "<|im_end|>"]
    assert tokenizer.decode(row.input_ids).count(same) == 2


def test_content_that_begins_with_white_space(tokenizer: Any) -> None:
    turns = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "\n  a"})
    row = encode(conversation(*turns), "Completions", tokenizer)
    (text,) = trained(row, tokenizer)
    assert text.endswith("a<|im_end|>")
    assert "assistant" not in text


def test_no_assistant_turn_means_no_supervised_token(tokenizer: Any) -> None:
    row = encode(conversation({"role": "user", "content": "q"}), "Completions", tokenizer)
    assert row.supervised == 0


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("Completions", " the answer<|im_end|>"), ("All", "uestion: the answer<|im_end|>")],
)
def test_strings_are_used_as_they_are(loss: str, expected: str, tokenizer: Any) -> None:
    row = encode(Pair("question:", " the answer", "t line 1"), loss, tokenizer)
    assert "".join(trained(row, tokenizer)).endswith(expected)
    assert tokenizer.decode(row.input_ids) == "question: the answer<|im_end|>"


def test_empty_completion_teaches_to_stop(tokenizer: Any) -> None:
    row = encode(Pair("question", "", "t line 1"), "Completions", tokenizer)
    assert trained(row, tokenizer) == ["<|im_end|>"]


def test_text_with_its_end(tokenizer: Any) -> None:
    row = encode(Document("the colour", "t line 1"), "All", tokenizer)
    assert row.labels[1:] == row.input_ids[1:]
    assert row.input_ids[-1] == tokenizer.eos_token_id


def test_end_token_is_not_doubled(tokenizer: Any) -> None:
    row = encode(Pair("q ", "a<|im_end|>", "t line 1"), "Completions", tokenizer)
    assert row.input_ids.count(tokenizer.eos_token_id) == 1


def test_template_without_terminator_gets_the_end_token() -> None:
    plain = tiny_tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    row = encode(conversation(), "Completions", plain)
    assert trained(row, plain) == ["assistant: two<|im_end|>"]


def starting(tokenizer: Any, start: str) -> Any:
    """The tokenizer, made to put a token before plain text, as LLaMA's does."""
    from tokenizers.processors import TemplateProcessing

    number = tokenizer.convert_tokens_to_ids(start)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, number)]
    )
    tokenizer.bos_token = start
    return tokenizer


def test_one_start_token_before_plain_text() -> None:
    tokenizer = starting(tiny_tokenizer(), "<|endoftext|>")
    row = encode(Pair("q ", "a", "t line 1"), "Completions", tokenizer)
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    already = encode(Pair("<|endoftext|>q ", "a", "t line 1"), "Completions", tokenizer)
    assert already.input_ids == row.input_ids


def test_start_token_of_the_template_is_not_doubled() -> None:
    tokenizer = starting(tiny_tokenizer("{{ bos_token }}" + CHAT_TEMPLATE), "<|endoftext|>")
    row = encode(conversation(), "Completions", tokenizer)
    assert row.input_ids.count(tokenizer.bos_token_id) == 1


def test_two_start_tokens_are_refused() -> None:
    template = "{{ bos_token }}{{ bos_token }}" + CHAT_TEMPLATE
    tokenizer = starting(tiny_tokenizer(template), "<|endoftext|>")
    with pytest.raises(TrainerError, match="begins with two") as caught:
        encode(conversation(), "Completions", tokenizer)
    assert caught.value.reason is Reason.DOUBLE_START_TOKEN


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("line one\n{% for m in messages %}", "at line 2: TemplateSyntaxError"),
        ("\n\n{{ messages[0].nothing.more }}", "at line 3: UndefinedError"),
        ("\n{{ raise_exception('no system turn') }}", "at line 2: TemplateError: no system turn"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        # The number of turns is written first, so every prefix differs from the whole.
        ("{{ messages | length }}" + CHAT_TEMPLATE, "message 5 differently"),
    ],
)
def test_broken_templates(template: str, message: str) -> None:
    with pytest.raises(TrainerError) as caught:
        encode(conversation(), "Completions", tiny_tokenizer(template))
    assert caught.value.reason is Reason.CHAT_TEMPLATE_ERROR
    assert caught.value.message.startswith("t line 1: the chat template")
    assert message in caught.value.message


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages.append.__globals__ }}", "SecurityError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% for a in range(10 ** 9) %}x{% endfor %}", "OverflowError: Range too big"),
        ("{{ 'x' * (2 ** 25) }}", "it wrote 33554432 characters"),
    ],
)
def test_templates_stay_in_their_bounds(template: str, message: str) -> None:
    with pytest.raises(TrainerError) as caught:
        encode(conversation(), "Completions", tiny_tokenizer(template))
    assert caught.value.reason is Reason.CHAT_TEMPLATE_ERROR
    assert message in caught.value.message
    assert len(caught.value.message) < 2000


def test_templates_are_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_module, "bounded_time", lambda: bounded.bounded_time(0.2))
    with pytest.raises(TrainerError, match="it ran for more than") as caught:
        encode(conversation(), "Completions", tiny_tokenizer(LOOPS))
    assert caught.value.reason is Reason.CHAT_TEMPLATE_ERROR


def test_a_timer_of_others_goes_on() -> None:
    signal.setitimer(signal.ITIMER_REAL, 1000)
    with bounded.bounded_time():
        pass
    assert 900 < signal.setitimer(signal.ITIMER_REAL, 0)[0] <= 1000


def test_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(TrainerError, match="no end-of-sequence token") as caught:
        Encoder(tokenizer)
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL
