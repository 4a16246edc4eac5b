"""The questions: loss and answers of a model with an adapter on and off, by plain PEFT."""

import pytest
import torch

from support.tiny_models import chats, tiny_llama


@pytest.fixture(scope="module")
def assistant(ask, tmp_path_factory):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("ask")
    tiny_llama(root / "model")
    base = AutoModelForCausalLM.from_pretrained(root / "model")
    tuned = get_peft_model(
        base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    tuned.save_pretrained(root / "adapter")
    return ask.Assistant(root / "model", root / "adapter")


@pytest.fixture
def rows():
    return [row["messages"] for row in chats(5)]


def test_the_loss_is_the_models_own_on_the_tokens_of_the_answer(assistant, rows):
    tokenizer, total, count = assistant.tokenizer, 0.0, 0
    for messages in rows:
        whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
        assert whole.endswith("<|im_end|>")
        ids = tokenizer(whole, return_tensors="pt", add_special_tokens=False).input_ids
        answer = messages[-1]["content"] + "<|im_end|>"
        answered = len(tokenizer(answer, add_special_tokens=False).input_ids)
        labels = ids.clone()
        labels[:, :-answered] = -100
        with torch.no_grad():
            total += assistant.model(input_ids=ids, labels=labels).loss.item() * answered
        count += answered
    assert assistant.loss(rows) == pytest.approx(total / count, rel=1e-5)


def test_before_is_the_base_and_after_the_adapter(ask, assistant, rows):
    found = ask.examine(assistant, rows, 2)
    assert found["lossBefore"] != pytest.approx(found["lossAfter"], rel=1e-3)
    assert found["lossAfter"] == pytest.approx(assistant.loss(rows))
    assert len(found["answers"]) == 2
    assert found["answers"][0]["question"] == rows[0][0]["content"]
    assert any(each["before"] != each["after"] for each in found["answers"])


@pytest.mark.parametrize(("wanted", "asked"), [(1, 1), (3, 3), (5, 5), (99, 5)])
def test_no_more_questions_are_asked_than_there_are(
    ask, assistant, rows, wanted, asked, monkeypatch
):
    monkeypatch.setattr(type(assistant), "answer", lambda *_: "x")
    assert len(ask.examine(assistant, rows, wanted)["answers"]) == asked


def test_answers_are_bounded(ask, assistant, rows, monkeypatch):
    long = assistant.answer(rows[0])
    monkeypatch.setattr(ask, "MAX_NEW_TOKENS", 2)
    short = assistant.answer(rows[0])
    assert len(short) < len(long)
    assert long.startswith(short.rstrip("\ufffd"))
