"""Every kind of row, made by a real tokenizer: what is the prompt, what is the answer, what is left out."""

from typing import Any

import pytest

from finetune_api.v1alpha1.data import Data, accepted_formats
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data import prepare
from finetune_trainer.data.formats import recognise, to_examples
from finetune_trainer.data.given import Given
from finetune_trainer.data.load import Examples
from finetune_trainer.data.readers.row import Row
from finetune_trainer.data.rows import IGNORED
from finetune_trainer.errors import TrainerError
from support.tiny_models import CHAT_TEMPLATE, tiny_tokenizer

USER = {"role": "user", "content": "which colour?"}
RED, BLUE = ({"role": "assistant", "content": content} for content in ("it is red", "it is blue"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def bert() -> Any:
    """A WordPiece tokenizer as BERT has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefgh",
        *(f"##{c}" for c in "abcdefgh"),
    ]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def given(
    tokenizer: Any,
    rows: list[dict[str, Any]],
    method: str = "SFT",
    task: Any = "text-generation",
    *,
    evaluation: list[dict[str, Any]] | None = None,
    answer_tokens: int = 0,
    **data: Any,
) -> Given:
    train, held_out = (
        [Row(row, f"{name} line {n}") for n, row in enumerate(each, 1)]
        for name, each in (("t", rows), ("e", evaluation or []))
    )
    data_format = recognise([*train, *held_out], "Auto", accepted_formats(method, task), method)
    examples = Examples(
        to_examples(train, data_format), to_examples(held_out, data_format), data_format,
        "Completions", [],
    )  # fmt: skip
    spec = Data.model_validate({"train": [{"source": "s3://b/t.jsonl"}], **data})
    return Given(examples, spec, tokenizer, 512, 1, len(tokenizer), answer_tokens)


def test_a_pair_of_chats_shares_its_rendered_prompt(tokenizer: Any) -> None:
    rows = [{"prompt": [USER], "chosen": [RED], "rejected": [BLUE]}]
    [row] = prepare.preference_rows(given(tokenizer, rows, "DPO")).train
    prompt = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(row.prompt_ids) == prompt
    assert tokenizer.decode(row.chosen_ids) == "it is red<|im_end|>"
    assert tokenizer.decode(row.rejected_ids) == "it is blue<|im_end|>"


@pytest.mark.parametrize(
    "answers", [(" red", " blue"), ("red", " blue"), ("colour is", "colourful")]
)
def test_a_pair_of_strings_is_tokenized_as_a_whole(
    answers: tuple[str, str], tokenizer: Any
) -> None:
    """The ids are those of prompt and answer as one text, wherever the border falls."""
    chosen, rejected = answers
    rows = [{"prompt": "The", "chosen": chosen, "rejected": rejected}]
    [row] = prepare.preference_rows(given(tokenizer, rows, "DPO")).train
    end = tokenizer.eos_token_id
    whole = [[*tokenizer("The" + answer)["input_ids"], end] for answer in answers]
    assert [row.prompt_ids + row.chosen_ids, row.prompt_ids + row.rejected_ids] == whole
    assert len(tokenizer.decode(row.prompt_ids)) <= len("The")


def test_a_token_over_the_border_belongs_to_the_answers(tokenizer: Any) -> None:
    assert len(tokenizer(" colour")["input_ids"]) == 1
    rows = [{"prompt": "The col", "chosen": "our", "rejected": "umn"}]
    [row] = prepare.preference_rows(given(tokenizer, rows, "DPO")).train
    assert tokenizer.decode(row.prompt_ids + row.chosen_ids) == "The colour<|im_end|>"
    assert tokenizer.decode(row.prompt_ids + row.rejected_ids) == "The column<|im_end|>"
    assert row.chosen_ids
    assert row.rejected_ids
    assert row.chosen_ids[0] != row.rejected_ids[0]


def test_long_pairs_keep_their_prompt_or_are_left_out(tokenizer: Any) -> None:
    fine = {"prompt": "q", "chosen": " red", "rejected": " blue"}
    long = {"prompt": "q", "chosen": " red" * 40, "rejected": " blue"}
    lost = {"prompt": "q" * 40, "chosen": " red", "rejected": " blue"}
    late = {"prompt": "q", "chosen": " red" * 30 + "x", "rejected": " red" * 30 + "y"}
    rows = [fine] * 30 + [long, lost, late]
    found = prepare.preference_rows(given(tokenizer, rows, "DPO", maxLength=16))
    assert (found.plan.rows, found.plan.truncated_rows, found.plan.skipped_rows) == (31, 3, 2)
    cut = found.train[-1]
    assert (cut.origin, cut.length, len(cut.prompt_ids)) == ("t line 31", 16, 1)
    assert tokenizer.decode(cut.chosen_ids).startswith(" red red")


def test_few_identical_pairs_are_left_out_and_counted(tokenizer: Any) -> None:
    fine = {"prompt": "q", "chosen": " red", "rejected": " blue"}
    rows = [fine] * 19 + [{**fine, "rejected": " red"}]
    plan = prepare.preference_rows(given(tokenizer, rows, "DPO")).plan
    assert (plan.rows, plan.identical_pairs, plan.skipped_rows) == (19, 1, 0)


def test_a_judged_answer_follows_its_prompt(tokenizer: Any) -> None:
    rows = [
        {"prompt": [USER], "completion": [RED], "label": False},
        {"prompt": [USER], "completion": [BLUE], "label": 1},
    ]
    found = prepare.judged_rows(given(tokenizer, rows, "KTO")).train
    prompt = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert [tokenizer.decode(row.prompt_ids) for row in found] == [prompt, prompt]
    assert tokenizer.decode(found[0].completion_ids) == "it is red<|im_end|>"
    assert [row.desirable for row in found] == [False, True]


def test_prompts_end_where_the_model_begins(tokenizer: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": [USER], "answer": "red"},
        {"prompt": "2 + 2 =", "answer": "4"},
    ]
    found = prepare.prompt_rows(given(tokenizer, rows, "GRPO", answer_tokens=64))
    prompt = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert [tokenizer.decode(row.prompt_ids) for row in found.train] == [prompt, "2 + 2 ="]
    assert [row.columns["answer"] for row in found.train] == ["red", "4"]
    assert found.max_length >= 64 + max(row.length for row in found.train)


def test_prompts_without_room_for_an_answer_are_left_out(tokenizer: Any) -> None:
    rows = [{"prompt": "short"}] * 19 + [{"prompt": "word " * 30}]
    found = prepare.prompt_rows(given(tokenizer, rows, "GRPO", maxLength=32, answer_tokens=16))
    assert (found.plan.rows, found.plan.skipped_rows, found.plan.truncated_rows) == (19, 1, 0)
    with pytest.raises(TrainerError, match=r"3 of 20 prompts .*t line 18, t line 19, t line 20"):
        prepare.prompt_rows(
            given(tokenizer, [*rows[2:], *rows[-1:] * 2], "GRPO", maxLength=32, answer_tokens=16)
        )
    with pytest.raises(TrainerError, match="leaves no room") as caught:
        prepare.prompt_rows(given(tokenizer, rows, "GRPO", maxLength=32, answer_tokens=32))
    assert caught.value.reason is Reason.INVALID_SPEC


def test_one_start_token_before_prompts() -> None:
    from tokenizers.processors import TemplateProcessing

    starting = tiny_tokenizer("{{ bos_token }}" + CHAT_TEMPLATE)
    start = "<|endoftext|>"
    number = starting.convert_tokens_to_ids(start)
    starting.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, number)]
    )
    starting.bos_token = start
    rows: list[dict[str, Any]] = [{"prompt": [USER]}, {"prompt": "q"}]
    found = prepare.prompt_rows(given(starting, rows, "PPO")).train
    assert [row.prompt_ids.count(number) for row in found] == [1, 1]


def test_classes_are_numbered_by_name(bert: Any) -> None:
    rows = [
        {"text": "a b", "label": "no"},
        {"text": "c", "label": "maybe"},
        {"text": "d", "label": "yes"},
    ]
    wanted = given(bert, rows, task="text-classification", evaluation=rows[2:])
    found = prepare.class_rows(wanted)
    assert found.label_names == ("maybe", "no", "yes")
    assert [row.label for row in found.train] == [1, 0, 2]
    assert [row.label for row in found.evaluation] == [2]
    assert found.train[0].input_ids == [2, 5, 6, 3]
    assert [r.why for r in found.resolved if r.field == "data.labels"] == ["maybe, no, yes"]


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([0, 1, 10, 2], ("0", "1", "2", "10"), [0, 1, 3, 2]),
        (["10", "9"], ("9", "10"), [1, 0]),
        ([True, False], ("false", "true"), [1, 0]),
    ],
)
def test_numbers_are_sorted_as_numbers(
    labels: list[Any], names: tuple[str, ...], numbers: list[int], bert: Any
) -> None:
    rows = [{"text": "a", "label": label} for label in labels]
    found = prepare.class_rows(given(bert, rows, task="text-classification"))
    assert found.label_names == names
    assert [row.label for row in found.train] == numbers


@pytest.mark.parametrize(
    ("labels", "held_out", "message"),
    [
        (["a", 1], [], "t line 2 has the label 1, but t line 1 has 'a'"),
        (["a", "b"], ["b", "c"], r"e line 2 \('c'\)"),
        ([str(n) for n in range(1002)], [], "t line 1001: '1000' is the label number 1001"),
    ],
)
def test_unusable_labels(labels: list[Any], held_out: list[Any], message: str, bert: Any) -> None:
    rows, evaluation = ([{"text": "a", "label": x} for x in each] for each in (labels, held_out))
    wanted = given(bert, rows, task="text-classification", evaluation=evaluation)
    with pytest.raises(TrainerError, match=message) as caught:
        prepare.class_rows(wanted)
    assert caught.value.reason is Reason.UNKNOWN_LABEL


def test_pairs_of_texts_have_segments(bert: Any) -> None:
    rows = [
        {"text": "a", "text_pair": "b", "label": 0},
        {"text": "a", "text_pair": "c", "label": 1},
    ]
    [row, _] = prepare.class_rows(given(bert, rows, task="text-classification")).train
    assert row.input_ids == [2, 5, 3, 6, 3]
    assert row.segment_ids == [0, 0, 0, 1, 1]


def test_long_texts_keep_their_closing_token(bert: Any) -> None:
    rows = [{"text": "a b c d e f g h a b", "label": 0}, {"text": "a", "label": 1}]
    found = prepare.class_rows(given(bert, rows, task="text-classification", maxLength=8))
    assert found.train[0].input_ids == [2, 5, 6, 7, 8, 9, 10, 3]
    assert found.plan.truncated_rows == 1


def test_words_and_texts_are_not_mixed_up(bert: Any) -> None:
    words = {"tokens": ["a"], "tags": ["O"]}
    with pytest.raises(TrainerError, match="t line 1: words with tags, not a text"):
        prepare.class_rows(given(bert, [words], task="text-classification"))
    with pytest.raises(TrainerError, match="t line 1: a text, not words with tags"):
        prepare.tag_rows(given(bert, [{"text": "a", "label": 1}], task="token-classification"))


def test_a_tag_stands_at_the_first_token_of_its_word(bert: Any, tokenizer: Any) -> None:
    rows = [{"tokens": ["abc", "d", "ef"], "tags": ["B", "O", "B"]}]
    found = prepare.tag_rows(given(bert, rows, task="token-classification"))
    assert found.label_names == ("B", "O")
    [row] = found.train
    assert bert.convert_ids_to_tokens(row.input_ids) == [
        "[CLS]",
        "a",
        "##b",
        "##c",
        "d",
        "e",
        "##f",
        "[SEP]",
    ]
    assert row.labels == [IGNORED, 0, IGNORED, IGNORED, 1, 0, IGNORED, IGNORED]
    rows = [{"tokens": ["xyz", "colour", "is"], "tags": ["B", "A", "A"]}]
    [bytewise] = prepare.tag_rows(given(tokenizer, rows, task="token-classification")).train
    marked = [i for i, label in enumerate(bytewise.labels) if label != IGNORED]
    tokens = [tokenizer.decode([bytewise.input_ids[i]]).strip() for i in marked]
    assert [bytewise.labels[i] for i in marked] == [1, 0, 0]
    assert tokens[1] == "colour"
    assert tokens[2] == "is"


def test_sequences_have_both_ends(bert: Any) -> None:
    ending = bert.__class__(tokenizer_object=bert.backend_tokenizer, eos_token="[SEP]")
    rows = [{"prompt": "a b", "completion": "c"}]
    [row] = prepare.sequence_rows(given(ending, rows, task="text2text-generation")).train
    assert (row.input_ids, row.labels) == ([2, 5, 6, 3], [2, 7, 3])
    chat = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    [row] = prepare.sequence_rows(given(ending, chat, task="text2text-generation")).train
    assert (row.input_ids, row.labels) == ([2, 5, 3], [2, 6, 3])
    ids = [{"input_ids": [5, 3], "labels": [6, 7, 3]}]
    [row] = prepare.sequence_rows(given(ending, ids, task="text2text-generation")).train
    assert (row.input_ids, row.labels) == ([5, 3], [6, 7, 3])
    with pytest.raises(TrainerError, match="t line 1: labels are needed"):
        prepare.sequence_rows(given(ending, [{"input_ids": [5]}], task="text2text-generation"))


def test_long_texts_are_masked_in_pieces_and_nothing_is_lost(bert: Any) -> None:
    rows = [{"text": "a b c d e f g h a b"}, {"text": "c"}]
    found = prepare.masked_rows(given(bert, rows, task="fill-mask", maxLength=8))
    assert [row.input_ids for row in found.train] == [
        [2, 5, 6, 7, 8, 9, 10, 3],
        [2, 11, 12, 5, 6, 3],
        [2, 7, 3],
    ]
    assert [row.labels for row in found.train][2] == [IGNORED, 7, IGNORED]
    assert found.plan.truncated_rows == 0


def test_no_mask_token(tokenizer: Any) -> None:
    with pytest.raises(TrainerError, match="no mask token"):
        prepare.masked_rows(given(tokenizer, [{"text": "a"}], task="fill-mask"))
