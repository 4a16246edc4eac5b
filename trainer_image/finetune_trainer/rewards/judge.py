"""All rewards of a job together: verifiable ones and a reward model, each with its weight.

Made by the recipes, asked for every batch of answers in training and in evaluation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune_trainer.data.rows import PromptRow
from finetune_trainer.foreign import Tokenizer
from finetune_trainer.rewards.answer import Answer
from finetune_trainer.rewards.build import NamedReward
from finetune_trainer.rewards.reward_model import Exchange, RewardModel
from finetune_trainer.rollout import Rollout

REWARD_MODEL = "RewardModel"


@dataclass(frozen=True)
class Judge:
    """The rewards of one job.

    Attributes:
        tokenizer: Of the policy.
        rewards: Verifiable rewards.
        model: A reward model, or None.
        model_weight: Its weight.
        batch: Rows that the reward model reads at once.
    """

    tokenizer: Tokenizer
    rewards: Sequence[NamedReward] = ()
    model: RewardModel | None = None
    model_weight: float = 1.0
    batch: int = 8

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every reward, by name."""
        weights = {each.name: each.weight for each in self.rewards}
        return weights | ({REWARD_MODEL: self.model_weight} if self.model else {})

    def exchange(self, row: PromptRow, answer_ids: Sequence[int], *, ended: bool) -> Exchange:
        """A prompt with an answer, for rewards to read."""
        text = self.tokenizer.decode(answer_ids, skip_special_tokens=True)
        answer = Answer(str(text), len(answer_ids), ended)
        return Exchange(row.prompt_ids, answer_ids, answer, row.columns)

    def scores(self, name: str, exchanges: Sequence[Exchange]) -> list[float]:
        """What one reward gives, without its weight."""
        if name == REWARD_MODEL and self.model:
            return self.model.scores(exchanges, batch=self.batch)
        judge = next(each for each in self.rewards if each.name == name)
        return [self._score(judge.score, each) for each in exchanges]

    def totals(self, rows: Sequence[PromptRow], rollout: Rollout) -> list[float]:
        """The weighted sum of all rewards, one a row."""
        exchanges = [
            self.exchange(row, answer[mask].tolist(), ended=bool(ended))
            for row, answer, mask, ended in zip(
                rows, rollout.answers.cpu(), rollout.mask.cpu(), rollout.ended.cpu(), strict=True
            )
        ]
        totals = [0.0] * len(exchanges)
        for name, weight in self.weights.items():
            for index, score in enumerate(self.scores(name, exchanges)):
                totals[index] += weight * score
        return totals

    def _score(self, score: Callable[..., float], exchange: Exchange) -> float:
        prompt = self.tokenizer.decode(exchange.prompt_ids, skip_special_tokens=True)
        return score(str(prompt), exchange.answer, exchange.columns)
