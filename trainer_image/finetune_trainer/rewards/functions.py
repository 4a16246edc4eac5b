"""The library of verifiable rewards: small frozen judges of one answer.

Made by `build` from `rewards` of a GRPO or RLOO block. Each gives a number from 0 to 1, never an
exception and never NaN, whatever a policy writes. There is no way to bring a function along.
"""

import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from finetune_trainer.rewards import json_schema, patterns
from finetune_trainer.rewards.answer import Answer
from finetune_trainer.rewards.numeric import last_number


class RewardFunction(Protocol):
    """One verifiable reward."""

    def score(self, prompt: str, answer: Answer, expected: str | None) -> float:
        """From 0 to 1.

        Args:
            prompt: The prompt as text.
            answer: What the policy wrote.
            expected: Value of the row's column that the reward names, as text; None without one.
        """
        ...


@dataclass(frozen=True)
class ExactMatch:
    """1 if the answer is the expected one, apart from white space around it and Unicode form (NFC)."""

    def score(self, prompt: str, answer: Answer, expected: str | None) -> float:
        """See `RewardFunction`."""
        return float(_normal(answer.bounded) == _normal(expected or ""))


@dataclass(frozen=True)
class Regex:
    """1 if the pattern is found in the answer and, with a column, what it captured is as expected.

    Attributes:
        pattern: Regular expression of the `regex` package; its first group, or else the whole match,
            is compared with the expected value.
    """

    pattern: str

    def score(self, prompt: str, answer: Answer, expected: str | None) -> float:
        """See `RewardFunction`."""
        match = patterns.find(self.pattern, answer.bounded)
        if match is None or expected is None:
            return float(match is not None)
        captured = match[1] if match.re.groups else match[0]
        return float(_normal(captured or "") == _normal(expected))


@dataclass(frozen=True)
class Format:
    """1 if the pattern matches the whole answer, apart from white space around it."""

    pattern: str

    def score(self, prompt: str, answer: Answer, expected: str | None) -> float:
        """See `RewardFunction`."""
        return float(patterns.full_match(self.pattern, answer.bounded.strip()))


@dataclass(frozen=True)
class NumericAnswer:
    """1 if the last number of the answer is the last number of the expected value.

    Attributes:
        tolerance: Accepted difference, relative to the expected value and absolute below 1.
    """

    tolerance: float = 1e-6

    def score(self, prompt: str, answer: Answer, expected: str | None) -> float:
        """See `RewardFunction`."""
        found, wanted = last_number(answer.bounded), last_number(expected or "")
        if found is None or wanted is None:
            return 0.0
        return float(
            abs(found - wanted) <= Fraction(self.tolerance) * max(Fraction(1), abs(wanted))
        )


@dataclass(frozen=True)
class Length:
    """1 at the wanted number of tokens, falling evenly to 0 at none and at twice as many."""

    target_tokens: int

    def score(self, prompt: str, answer: Answer, expected: str | None) -> float:
        """See `RewardFunction`."""
        return max(0.0, 1 - abs(answer.tokens - self.target_tokens) / self.target_tokens)


@dataclass(frozen=True)
class JSONSchema:
    """1 if the answer is one JSON document and nothing else, and obeys the schema if there is one."""

    schema: str | None = None

    def score(self, prompt: str, answer: Answer, expected: str | None) -> float:
        """See `RewardFunction`."""
        return float(json_schema.valid(self.schema, answer.bounded.strip()))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()
