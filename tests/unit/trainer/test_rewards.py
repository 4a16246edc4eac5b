"""The reward library: what each judge says, and that no answer can stop or crash it."""

import json
import math
import time
from fractions import Fraction
from typing import Any

import pytest

from finetune_api.v1alpha1.method import RewardFunction
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.rewards.answer import Answer
from finetune_trainer.rewards.build import NamedReward, named_rewards
from finetune_trainer.rewards.numeric import last_number


def reward(**spec: Any) -> NamedReward:
    return named_rewards([RewardFunction.model_validate(spec)], "method.grpo.rewards")[0]


def score(answer: str, expected: object = None, tokens: int = 1, **spec: Any) -> float:
    if expected is not None:
        spec["column"] = "answer"
    return reward(**spec).score("Q?", Answer(answer, tokens), {"answer": expected})


SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"$ref": "#/$defs/word"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name"],
        "$defs": {"word": {"type": "string", "pattern": "^[a-z]+$"}},
    }
)


@pytest.mark.parametrize(
    ("answer", "expected", "spec", "wanted"),
    [
        (" Paris\n", "Paris", {"type": "ExactMatch"}, 1),
        ("paris", "Paris", {"type": "ExactMatch"}, 0),
        ("Ren\u0065\u0301", "Ren\u00e9", {"type": "ExactMatch"}, 1),
        ("", "Paris", {"type": "ExactMatch"}, 0),
        ("so: 42!", None, {"type": "Regex", "pattern": r"\d+"}, 1),
        ("so: none", None, {"type": "Regex", "pattern": r"\d+"}, 0),
        ("<a>42</a>", 42, {"type": "Regex", "pattern": "<a>(.*)</a>"}, 1),
        ("<a>43</a>", 42, {"type": "Regex", "pattern": "<a>(.*)</a>"}, 0),
        ("the 42 end", "42", {"type": "Regex", "pattern": r"\d+"}, 1),
        ("x", "", {"type": "Regex", "pattern": "x(y)?"}, 1),
        ("<think>\nhm\n</think> 4\n", None, {"type": "Format", "pattern": "<think>.*</think> .*"}, 1),
        ("well, <think></think> 4", None, {"type": "Format", "pattern": "<think>.*</think> .*"}, 0),
        ("first 3, then 72.", "reasoning ... #### 72", {"type": "NumericAnswer"}, 1),
        ("$1,234.50", 1234.5, {"type": "NumericAnswer"}, 1),
        ("one third is 1/3", "2/6", {"type": "NumericAnswer"}, 1),
        ("0.33", "1/3", {"type": "NumericAnswer", "tolerance": 0.01}, 1),
        ("0.33", "1/3", {"type": "NumericAnswer"}, 0),
        ("1010", 1000, {"type": "NumericAnswer", "tolerance": 0.01}, 1),
        ("1011", 1000, {"type": "NumericAnswer", "tolerance": 0.01}, 0),
        ("no idea", 7, {"type": "NumericAnswer"}, 0),
        ('{"name": "ann", "age": 3}', None, {"type": "JSONSchema", "jsonSchema": SCHEMA}, 1),
        ('{"name": "Ann"}', None, {"type": "JSONSchema", "jsonSchema": SCHEMA}, 0),
        ('{"age": 3}', None, {"type": "JSONSchema", "jsonSchema": SCHEMA}, 0),
        ('Sure! {"name": "ann"}', None, {"type": "JSONSchema", "jsonSchema": SCHEMA}, 0),
        ("[1, 2]", None, {"type": "JSONSchema"}, 1),
        ("[1, NaN]", None, {"type": "JSONSchema"}, 0),
    ],
)  # fmt: skip
def test_verdicts(answer: str, expected: object, spec: dict[str, Any], wanted: float) -> None:
    assert score(answer, expected, **spec) == wanted


@pytest.mark.parametrize(("tokens", "wanted"), [(10, 1), (5, 0.5), (15, 0.5), (20, 0), (500, 0)])
def test_length_falls_evenly_around_the_target(tokens: int, wanted: float) -> None:
    assert score("x", tokens=tokens, type="Length", targetTokens=10) == wanted


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5-3", Fraction(3)),
        ("x = -3", Fraction(-3)),
        ("\u2212 is not a number, \u22123 is", Fraction(-3)),
        ("-$5", Fraction(-5)),
        ("1,2,3", Fraction(3)),
        ("12,345,678", Fraction(12345678)),
        (".5", Fraction(1, 2)),
        ("7.", Fraction(7)),
        ("2e3", Fraction(2000)),
        ("1.2.3", Fraction(3, 10)),
        ("6/0 then", None),
        ("", None),
        ("\u0663", None),
    ],
)
def test_last_number(text: str, number: Fraction | None) -> None:
    assert last_number(text) == number


HOSTILE = [
    "a" * 50_000 + "!",
    "(" * 50_000,
    "[" * 100_000,
    "[" * 60 + "]" * 60,
    "[" + ",".join(["{}"] * 50_000) + "]",
    "9" * 100_000,
    "1e999999999",
    "1e-999999999",
    "1/" + "0" * 100_000,
    "-" * 100_000,
    "1," * 50_000,
    "1e400",
    "\ufdfa" * 50_000,
    "\x00\ud800\u202e",
    '{"name": "' + "a" * 100_000 + '!"}',
    "\n" * 100_000,
    "",
]
JUDGES: list[dict[str, Any]] = [
    {"type": "ExactMatch", "column": "answer"},
    {"type": "Regex", "pattern": "(a+)+$"},
    {"type": "Regex", "pattern": r"(\(|\()*x", "column": "answer"},
    {"type": "Format", "pattern": "(.*)*=(.*)*"},
    {"type": "NumericAnswer", "column": "answer"},
    {"type": "Length", "targetTokens": 1},
    {"type": "JSONSchema"},
    {"type": "JSONSchema", "jsonSchema": '{"type": "array", "uniqueItems": true}'},
    {"type": "JSONSchema", "jsonSchema": '{"multipleOf": 0.1, "items": {"$ref": "#"}}'},
    {"type": "JSONSchema", "jsonSchema": '{"properties": {"name": {"pattern": "(a+)+$"}}}'},
]


@pytest.mark.parametrize("spec", JUDGES, ids=lambda spec: json.dumps(spec)[:60])
def test_hostile_answers_get_a_number_in_time(spec: dict[str, Any]) -> None:
    judge = reward(**spec)
    for text in HOSTILE:
        started = time.monotonic()
        value = judge.score("Q?", Answer(text, 10**9), {"answer": "5"})
        assert 0 <= value <= 1
        assert math.isfinite(value)
        # Python's `re` would need longer than the universe for some of these.
        assert time.monotonic() - started < 5, text[:20]


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"type": "Regex", "pattern": "("}, "pattern"),
        ({"type": "Format", "pattern": "(?P<a>"}, "pattern"),
        ({"type": "JSONSchema", "jsonSchema": "{"}, "not JSON"),
        ({"type": "JSONSchema", "jsonSchema": '{"type": "word"}'}, "JSON Schema"),
        ({"type": "JSONSchema", "jsonSchema": '{"$ref": "http://10.0.0.1/x"}'}, "leaves"),
        ({"type": "JSONSchema", "jsonSchema": '{"items": {"$ref": "file:///etc/passwd"}}'}, "leaves"),
        ({"type": "JSONSchema", "jsonSchema": '{"$id": "http://x", "$ref": "#/a"}'}, "nowhere"),
        ({"type": "JSONSchema", "jsonSchema": '{"allOf": [{"$id": "http://x"}]}'}, "$id"),
        ({"type": "JSONSchema", "jsonSchema": '{"patternProperties": {"(a+)+$": {}}}'}, "patternProp"),
        ({"type": "JSONSchema", "jsonSchema": '{"pattern": "("}'}, "regex"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_when_planned(spec: dict[str, Any], word: str) -> None:
    with pytest.raises(TrainerError, match=r"method.grpo.rewards\[0\]") as caught:
        reward(**spec)
    assert caught.value.reason == Reason.INVALID_SPEC
    assert word in caught.value.message


def test_names_tell_rewards_of_one_type_apart() -> None:
    specs = [{"type": "Regex", "pattern": p} for p in ("a", "b")]
    specs.append({"type": "JSONSchema"})
    named = named_rewards([RewardFunction.model_validate(each) for each in specs], "x")
    assert [each.name for each in named] == ["Regex", "Regex2", "JSONSchema"]


@pytest.mark.parametrize("columns", [{}, {"answer": None}, {"answer": ["a"]}, {"answer": True}])
def test_a_row_without_the_column_is_named(columns: dict[str, Any]) -> None:
    judge = reward(type="ExactMatch", column="answer")
    judge.check_row({"answer": 3.5}, "a.jsonl line 1")
    with pytest.raises(TrainerError, match=r"a\.jsonl line 2") as caught:
        judge.check_row(columns, "a.jsonl line 2")
    assert caught.value.reason == Reason.DATA_INVALID
