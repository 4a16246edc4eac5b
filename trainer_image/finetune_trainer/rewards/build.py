"""From the `rewards` of a spec to rewards, and from rows to what they expect.

Called by the recipes of GRPO and RLOO while the job is planned: a pattern that cannot be read, or a row
without the column that a reward compares with, ends the job before a model is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.method import RewardFunction as Spec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.plain import kind_of
from finetune_trainer.errors import TrainerError
from finetune_trainer.rewards import functions, json_schema, patterns
from finetune_trainer.rewards.answer import Answer


@dataclass(frozen=True)
class NamedReward:
    """One reward of a job.

    Attributes:
        name: For metrics: the type, with a number from the second one of a type on.
        weight: Factor in the sum.
        column: Column with the expected value, or None.
        function: The judge.
    """

    name: str
    weight: float
    column: str | None
    function: functions.RewardFunction

    def score(self, prompt: str, answer: Answer, columns: Mapping[str, Any]) -> float:
        """From 0 to 1, without the weight; `columns` are those of the prompt's row."""
        return self.function.score(prompt, answer, self._expected(columns))

    def check_row(self, columns: Mapping[str, Any], origin: str) -> None:
        """See that a row has the value that this reward compares with.

        Raises:
            TrainerError: DataInvalid naming the row.
        """
        if self.column is None:
            return
        value = columns.get(self.column)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            found = "is absent" if value is None else f"holds {kind_of(value)}"
            message = (
                f"{origin}: column {self.column!r}, with which the reward {self.name} compares, "
                f"{found}; it must hold a string or a number"
            )
            raise TrainerError(Reason.DATA_INVALID, message)

    def _expected(self, columns: Mapping[str, Any]) -> str | None:
        return None if self.column is None else str(columns[self.column])


def named_rewards(specs: Sequence[Spec], where: str) -> list[NamedReward]:
    """The rewards of a spec, checked.

    Args:
        specs: The list.
        where: Path of the list, for messages: `method.grpo.rewards`.

    Raises:
        TrainerError: InvalidSpec naming the entry.
    """
    rewards: list[NamedReward] = []
    for index, spec in enumerate(specs):
        before = sum(each.type == spec.type for each in specs[:index])
        name = f"{spec.type}{before + 1}" if before else spec.type
        function = _function(spec, f"{where}[{index}]")
        rewards.append(NamedReward(name, spec.weight, spec.column, function))
    return rewards


def _function(spec: Spec, where: str) -> functions.RewardFunction:
    # That each type has its fields is a rule of the API; what is in them is checked here.
    match spec.type:
        case "ExactMatch":
            return functions.ExactMatch()
        case "NumericAnswer":
            return functions.NumericAnswer(spec.tolerance)
        case "Length":
            return functions.Length(spec.target_tokens or 1)
        case "JSONSchema":
            if spec.json_schema is not None:
                json_schema.check(spec.json_schema, f"{where}.jsonSchema")
            return functions.JSONSchema(spec.json_schema)
        case "Regex" | "Format":
            pattern = spec.pattern or ""
            patterns.check(pattern, f"{where}.pattern")
            return functions.Regex(pattern) if spec.type == "Regex" else functions.Format(pattern)
