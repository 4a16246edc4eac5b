"""Parts of the online methods: answers, logits at unshifted positions, reward models, arguments."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DistillationConfig, GRPOConfig, RLOOConfig

from finetune_api.v1alpha1 import method
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import LoRA, Tuning
from finetune_trainer import online_arguments, reference
from finetune_trainer.answering import Sampling, stop_ids, write_answers
from finetune_trainer.drawing import drawing
from finetune_trainer.errors import TrainerError
from finetune_trainer.resolve import Settings
from finetune_trainer.rewards.answer import Answer
from finetune_trainer.rewards.reward_model import Exchange, RewardModel
from finetune_trainer.rollout import Rollout
from support.taste import expected_score, letters, taste_model
from support.tiny_models import tiny_model

SETTINGS = Settings(
    device="cpu",
    precision="Float32",
    weights="Float32",
    gradient_checkpointing=False,
    max_length=64,
    batch_size=3,
    micro_batch_size=4,
    total_steps=10,
    learning_rate=1e-3,
    weight_decay=0.0,
    scheduler="Cosine",
    warmup_steps=1,
    max_gradient_norm=1.0,
    seed=7,
    log_every=1,
    evaluate_every=None,
)
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20], [30, 31, 32]]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_model(tmp_path_factory.mktemp("m"), request.param, hidden=32, layers=2)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def how(net: Any, **changes: Any) -> Sampling:
    stops = tuple(stop_ids(net, AutoTokenizer.from_pretrained(net.name_or_path)))
    settings = {"temperature": 1.0, "top_p": 1.0, "stop_ids": stops, "pad_id": stops[0]}
    return Sampling(max_new_tokens=6, **{**settings, **changes})


def test_padding_changes_neither_answers_nor_logits(net: Any) -> None:
    together = write_answers(net, PROMPTS, how(net))
    logits = reference.answer_logits(net, together, torch.float32)
    for row, prompt in enumerate(PROMPTS):
        alone = write_answers(net, [prompt], how(net))
        length = int(alone.mask.sum())
        assert torch.equal(alone.answers[0, :length], together.answers[row, :length])
        ids = torch.tensor([[*prompt, *alone.answers[0, :length].tolist()]])
        with torch.no_grad():
            plain = net(ids).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(logits[row, :length], plain, atol=2e-5, rtol=1e-4)


def test_answers_end_at_the_first_stop_token_and_the_rest_is_masked(net: Any) -> None:
    free = write_answers(net, PROMPTS, how(net), seed=1)
    # Make the third token of the first answer a stop token: the draws are the same up to there.
    stop = int(free.answers[0, 2])
    stopped = write_answers(net, PROMPTS, how(net, stop_ids=(stop,), pad_id=0), seed=1)
    first = free.answers[0].tolist().index(stop)
    assert int(stopped.mask[0].sum()) == first + 1
    assert stopped.answers[0, : first + 1].tolist() == free.answers[0, : first + 1].tolist()
    assert not stopped.answers[0, first + 1 :].any()
    assert bool(stopped.ended[0])
    for row in range(len(PROMPTS)):
        written = stopped.answers[row][stopped.mask[row]].tolist()
        assert stop not in written[:-1]
        assert bool(stopped.ended[row]) == (written[-1] == stop)


def test_draws_follow_from_the_seed_alone(net: Any) -> None:
    torch.manual_seed(1)
    one = write_answers(net, PROMPTS, how(net), seed=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = write_answers(net, PROMPTS, how(net), seed=3)
    assert torch.equal(one.answers, two.answers)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one.answers, write_answers(net, PROMPTS, how(net), seed=4).answers)


def test_a_row_draws_the_same_in_any_company(net: Any) -> None:
    together = write_answers(net, PROMPTS, how(net), seed=3)
    for row, prompt in enumerate(PROMPTS):
        alone = write_answers(net, [prompt], how(net), seed=3, first=row)
        length = int(alone.mask.sum())
        assert torch.equal(alone.answers[0, :length], together.answers[row, :length])


def test_what_is_drawn_is_the_distribution_that_was_asked_for() -> None:
    count = 10_000
    logits = torch.randn(7, generator=torch.Generator().manual_seed(0)) * 2
    # Numbers that lie evenly in [0, 1) hit each token as often as its probability says, but for one.
    numbers = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).unsqueeze(1)
    for temperature, top_p in ((1.0, 1.0), (0.7, 1.0), (1.3, 0.8)):
        wanted = (logits / temperature).softmax(-1)
        likeliest = wanted.argsort(descending=True)
        before = wanted[likeliest].cumsum(0) - wanted[likeliest]
        kept = likeliest[before < top_p]
        wanted = torch.zeros(7).scatter(0, kept, wanted[kept] / wanted[kept].sum())
        processors = drawing(numbers, 2, temperature=temperature, top_p=top_p)
        ids = torch.zeros(count, 2, dtype=torch.long)
        drawn = processors(ids, logits.expand(count, -1).clone()).argmax(1)
        found = drawn.bincount(minlength=7) / count
        torch.testing.assert_close(found, wanted, atol=1.5 / count, rtol=0)


def test_a_models_own_generation_settings_do_not_narrow_the_policy(net: Any) -> None:
    free = write_answers(net, PROMPTS, how(net), seed=5)
    net.generation_config.update(top_k=1, repetition_penalty=5.0, do_sample=False)
    try:
        assert torch.equal(write_answers(net, PROMPTS, how(net), seed=5).answers, free.answers)
        assert net.generation_config.top_k == 1
    finally:
        net.generation_config.update(top_k=50, repetition_penalty=1.0)


def test_stop_tokens_come_from_tokenizer_model_and_template(net: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(net.name_or_path)
    tokenizer.eos_token = "<|endoftext|>"
    net.generation_config.eos_token_id = [7]
    try:
        found = stop_ids(net, tokenizer)
    finally:
        net.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert {tokenizer.decode([each]) for each in found - {7}} == {"<|endoftext|>", "<|im_end|>"}


@pytest.mark.parametrize(
    ("tuning", "copied"),
    [
        (Tuning(type="LoRA"), False),
        (Tuning(type="LoRA", lora=LoRA(variant="PiSSA")), False),
        (Tuning(type="IA3"), False),
        (Tuning(type="Full"), True),
        (Tuning(type="PromptTuning"), True),
    ],
)
def test_a_reference_is_copied_only_where_it_must_be(tuning: Tuning, copied: bool) -> None:
    assert reference.copies(tuning) == copied
    assert ("copy" in reference.told(tuning, "x").value) == copied


@pytest.fixture(scope="module")
def taste(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taste")
    policy = tiny_model(folder / "policy", hidden=32, layers=1)
    return taste_model(folder / "taste", AutoTokenizer.from_pretrained(policy))


def exchanges(tokenizer: Any, texts: list[str]) -> list[Exchange]:
    found = []
    for text in texts:
        prompt, ids = tokenizer("Go: ")["input_ids"], tokenizer(text)["input_ids"]
        found.append(Exchange(prompt, ids, Answer(text, len(ids)), {"prompt": "Go: "}))
    return found


def test_a_reward_model_scores_the_tokens_that_were_written(taste: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(taste)
    tokenizer = AutoTokenizer.from_pretrained(taste)
    judge = RewardModel(model, tokenizer, tokenizer, source="s3://r")
    asked = exchanges(tokenizer, ["abc", "123 4 5 67 89", "The colour is 7", "?"])
    liked = letters(tokenizer)
    wanted = [expected_score([*e.prompt_ids, *e.answer_ids], liked) for e in asked]
    for batch in (1, 3, 8):
        assert judge.scores(asked, batch=batch) == pytest.approx(wanted, abs=1e-4)
    assert len(set(wanted)) == 4


def test_a_reward_model_with_other_tokens_reads_the_text_anew(taste: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(taste)
    tokenizer, own = AutoTokenizer.from_pretrained(taste), AutoTokenizer.from_pretrained(taste)
    # The policy knows one token more, so that its ids cannot be trusted.
    tokenizer.add_tokens(["zzz"])
    judge = RewardModel(model, own, tokenizer, source="s3://r")
    asked = exchanges(own, ["abc 12"])
    plain = [*own("Go: abc 12")["input_ids"], own.eos_token_id]
    wanted = expected_score(plain, letters(own))
    assert judge.scores(asked, batch=1) == pytest.approx([wanted], abs=1e-4)
    chat = [Exchange(e.prompt_ids, e.answer_ids, e.answer, {"prompt": messages()}) for e in asked]
    turns = [*messages(), {"role": "assistant", "content": "abc 12"}]
    rendered = own(own.apply_chat_template(turns, tokenize=False))["input_ids"]
    assert judge.scores(chat, batch=1) == pytest.approx(
        [expected_score(rendered, letters(own))], abs=1e-4
    )
    own.chat_template = None
    with pytest.raises(TrainerError, match="no chat template"):
        judge.scores(chat, batch=1)


def messages() -> list[dict[str, str]]:
    return [{"role": "user", "content": "Which?"}]


def test_a_classifier_of_two_labels_is_no_reward_model(taste: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(taste)
    model.config.num_labels = 2
    tokenizer = AutoTokenizer.from_pretrained(taste)
    with pytest.raises(TrainerError, match="one label") as caught:
        RewardModel(model, tokenizer, tokenizer, source="s3://r")
    assert caught.value.reason == Reason.UNSUPPORTED_MODEL


def test_every_argument_of_the_online_trainers_exists(tmp_path: Path) -> None:
    generation = method.Generation(max_new_tokens=9, temperature=0.5, top_p=0.9)
    group = {"reward_model": "s3://a/b", "answers_per_prompt": 8, "generation": generation}
    grpo = method.GRPO(**group, beta=0.3, clip_range=0.1, loss="DrGRPO")
    rloo = method.RLOO(**group)
    distillation = method.Distillation(teacher="s3://a/b", beta=0.5, generation=generation)
    given: list[tuple[Any, dict[str, Any]]] = [
        (GRPOConfig, online_arguments.grpo_arguments(grpo, SETTINGS, [1.0], tmp_path)),
        (RLOOConfig, online_arguments.rloo_arguments(rloo, SETTINGS, [1.0], tmp_path)),
        (
            DistillationConfig,
            online_arguments.distillation_arguments(distillation, SETTINGS, tmp_path),
        ),
    ]
    for kind, arguments in given:
        assert set(arguments) <= {field.name for field in fields(kind)}
        config = kind(**arguments)
        assert (config.max_completion_length, config.temperature, config.top_p) == (9, 0.5, 0.9)
        assert (config.top_k, config.repetition_penalty, config.max_steps) == (0, 1.0, 10)
    first, second, third = (kind(**arguments) for kind, arguments in given)
    # Three prompts with eight answers each, four answers a pass: six passes a step.
    assert (first.gradient_accumulation_steps, first.generation_batch_size) == (6, 24)
    assert (first.num_generations, first.epsilon, first.loss_type) == (8, 0.1, "dr_grpo")
    assert first.scale_rewards == "none"
    assert second.num_generations == 8
    assert third.beta == 0.5


def test_rows_of_a_rollout_keep_their_width() -> None:
    ids = torch.arange(6).reshape(3, 2)
    rollout = Rollout(ids, ids > 0, ids, ids > 1, torch.tensor([True, False, True]))
    part = rollout.rows(torch.tensor([2, 0]))
    assert part.answers.tolist() == [[4, 5], [0, 1]]
    assert part.ended.tolist() == [True, True]


def test_a_prompt_with_several_answers_is_read_once(net: Any) -> None:
    prompts = [PROMPTS[0], PROMPTS[2], PROMPTS[0], PROMPTS[0]]
    read = []
    embedding = net.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].shape))
    group = write_answers(net, prompts, how(net), seed=3)
    hook.remove()
    assert read[0] == (2, len(PROMPTS[0]))
    assert {shape[0] for shape in read[1:]} == {4}
    # A row draws by its number, so that it can be written alone.
    for row, prompt in enumerate(prompts):
        alone = write_answers(net, [prompt], how(net), seed=3, first=row)
        length = int(alone.mask.sum())
        assert torch.equal(alone.answers[0, :length], group.answers[row, :length])
    assert "forward" not in vars(net)
