"""Virtual tokens: what they learn, what stays, how they write, and who else can open them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import answers
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import CAUSAL, SEQUENCE_TO_SEQUENCE, Head
from finetune_trainer.tuning import apply as tunings
from finetune_trainer.tuning import virtual_tokens
from support.tiny_models import tiny_model, tiny_tokenizer

KINDS = ("PrefixTuning", "PromptTuning", "PTuning")
SIZE = 5
NEW = 6


def tuning(kind: str, **block: Any) -> Tuning:
    return Tuning.model_validate({"type": kind, "virtualTokens": {"virtualTokens": SIZE, **block}})


def adapted(folder: Path, kind: str, head: Head = CAUSAL) -> Any:
    base = head.loader.from_pretrained(folder)
    base.config.use_cache = False
    torch.manual_seed(2)
    return tunings.apply(base, tuning(kind), "s3://b/base", head, checkpointing=False).eval()


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {
        family: tiny_model(root / family, family, layers=2, hidden=32)
        for family in ("llama", "qwen2", "mistral", "gpt2", "t5")
    }


PROMPTS = [list(range(5, 16)), [30, 31, 32], [40, 41, 42, 43, 44, 45]]


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_written_as_the_logits_of_each_prompt_alone_say(
    families: dict[str, Path], family: str, kind: str
) -> None:
    model = adapted(families[family], kind)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    stop = tokenizer.eos_token_id
    with torch.no_grad():
        wanted = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            for _ in range(NEW):
                # The forward pass of training: no cache, no padding.
                following = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
                ids = torch.cat([ids, following.argmax(-1, keepdim=True)], dim=1)
                if ids[0, -1] == stop:
                    break
            wanted.append(ids[0, len(prompt) :].tolist())
    sampling = answers.Sampling(max_new_tokens=NEW)
    assert answers.answer(model, tokenizer, PROMPTS, sampling) == wanted
    for prompt, each in zip(PROMPTS, wanted, strict=True):
        assert answers.answer(model, tokenizer, [prompt], sampling) == [each]


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_decoder_answers_a_batch_as_each_input_alone(
    families: dict[str, Path], kind: str
) -> None:
    model = adapted(families["t5"], kind, SEQUENCE_TO_SEQUENCE)
    # Spread, so that answers are not one token again and again.
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in model.get_base_model().parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.5)
    wanted = []
    for prompt in PROMPTS:
        ids, written = torch.tensor([prompt]), torch.zeros(1, 1, dtype=torch.long)
        for _ in range(NEW):
            with torch.no_grad():
                logits = model(
                    input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=written
                ).logits
            written = torch.cat([written, logits[:, -1:].argmax(-1)], dim=1)
        wanted.append(written[0].tolist())
    assert len({tuple(each) for each in wanted}) > 1
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    found = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, eos_token_id=None
    )
    assert found.tolist() == wanted


def test_the_first_token_of_a_text_is_not_learned(families: dict[str, Path]) -> None:
    model = adapted(families["llama"], "PromptTuning")
    ids = torch.arange(5, 13).view(1, 8)
    # By hand: the mean over the tokens that follow another one.
    logits = model(input_ids=ids).logits[:, SIZE:]
    wanted = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, wanted)


@pytest.mark.parametrize(
    ("text", "words"),
    [("red", "is repeated"), ("Which colour? Thing is red or blue or yellow or green.", "is cut")],
)
def test_initial_text_by_the_tokenizer_that_was_loaded(
    model_folder: Path, text: str, words: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    wish = tuning("PromptTuning", initialText=text)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    model = tunings.apply(base, wish, "s3://b/base", CAUSAL, checkpointing=False)
    virtual_tokens.start(model, wish, tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    filled = [ids[place % len(ids)] for place in range(SIZE)]
    learned = model.prompt_encoder["default"].embedding.weight
    assert learned.requires_grad
    torch.testing.assert_close(learned.detach(), base.get_input_embeddings().weight[filled])
    (told,) = virtual_tokens.told(wish, tokenizer)
    assert f"{len(ids)} tokens" in told.why
    assert words in told.why
    assert model.peft_config["default"].tokenizer_name_or_path is None


def test_what_is_left_of_the_positions() -> None:
    assert virtual_tokens.room(512, tuning("PTuning")) == 512 - SIZE
    assert virtual_tokens.room(512, Tuning()) == 512
    assert virtual_tokens.room(None, tuning("PTuning")) is None
    with pytest.raises(TrainerError, match="the model has 5 positions"):
        virtual_tokens.room(SIZE, tuning("PTuning"))
    with pytest.raises(TrainerError, match="has no token"):
        virtual_tokens.told(
            tuning("PromptTuning", initialText=" "), lambda *_, **__: {"input_ids": []}
        )
