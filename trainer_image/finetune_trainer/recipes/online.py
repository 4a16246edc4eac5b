"""What the methods have in common whose model answers prompts while it is trained.

Base of the recipes of PPO, GRPO, RLOO and distillation. `training.batchSize` counts prompts, as rows
of the data everywhere; `training.microBatchSize` counts answers in a forward pass, as it is there for
memory.
"""

from abc import abstractmethod
from dataclasses import replace
from itertools import chain
from typing import Any

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.method import Generation, RewardFunction
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import heads, model, verify
from finetune_trainer.answering import Sampling, sampling
from finetune_trainer.batches import Batch, Collator
from finetune_trainer.context import Context
from finetune_trainer.data.prepare import prompt_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import PromptRow, TokenRow
from finetune_trainer.early_stopping import Criterion
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model, ModelConfig, Tokenizer
from finetune_trainer.held_out import HeldOut
from finetune_trainer.opening import load_source
from finetune_trainer.recipes.recipe import Ready, Recipe, given
from finetune_trainer.resolve import Machine, Settings, resolve
from finetune_trainer.rewards.build import NamedReward, named_rewards
from finetune_trainer.rewards.judge import Judge
from finetune_trainer.rewards.reward_model import RewardModel


class Online(Recipe):
    """A method whose model answers prompts."""

    criterion = Criterion("reward", higher_is_better=True)

    @abstractmethod
    def generation(self, spec: FineTuneJobSpec) -> Generation:
        """How answers are written."""

    def answers_per_prompt(self, spec: FineTuneJobSpec) -> int:
        """Answers to each prompt of a batch."""
        return 1

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[PromptRow]:
        """Prompt rows that leave room for an answer."""
        room = self.generation(context.run.spec).max_new_tokens
        return prompt_rows(given(context, tokenizer, config, answer_tokens=room))

    def resolve(
        self, spec: FineTuneJobSpec, machine: Machine, data: Prepared[Any]
    ) -> tuple[Settings, list[Resolved]]:
        """Every setting; what does not fit together is told here, before a model is loaded."""
        wanted, answers = spec.training.micro_batch_size, self.answers_per_prompt(spec)
        training = spec.training.model_copy(update={"micro_batch_size": "Auto"})
        open_spec = spec.model_copy(update={"training": training})
        settings, chosen = resolve(open_spec, machine, len(data.train), data.max_length)
        if isinstance(wanted, int):
            chosen = [each for each in chosen if each.field != "training.microBatchSize"]
            settings = replace(settings, micro_batch_size=wanted)
        _check_batches(settings, answers, len(data.train))
        return settings, chosen

    def probe(self, ready: Ready) -> Batch:
        """A few prompts."""
        rows = ready.data.evaluation or ready.data.train
        tokens = [TokenRow(row.prompt_ids, row.prompt_ids, row.origin) for row in rows[:4]]
        return verify.probe_of(tokens, Collator(ready.tokenizer.pad_token_id))

    def sampling(self, ready: Ready, net: Model) -> Sampling:
        """How the model answers, with its stop tokens."""
        return sampling(self.generation(ready.spec), net, ready.tokenizer)

    def held_out(self, ready: Ready, net: Model) -> HeldOut:
        """The held-out prompts, and how they are answered."""
        settings = ready.settings
        return HeldOut(
            ready.data.evaluation,
            self.sampling(ready, net),
            settings.micro_batch_size,
            model.DTYPES[settings.precision],
        )


def verifiable(
    data: Prepared[Any], block: str, specs: list[RewardFunction] | None
) -> list[NamedReward]:
    """The rewards of a block, with every row looked at.

    Raises:
        TrainerError: InvalidSpec, or DataInvalid naming the row.
    """
    rewards = named_rewards(specs or [], f"method.{block}.rewards")
    compared = any(reward.column for reward in rewards)
    for row in chain(data.train, data.evaluation) if compared else ():
        for reward in rewards:
            reward.check_row(row.columns, row.origin)
    return rewards


def judge(
    ready: Ready, path: str, rewards: list[NamedReward] | None = None, weight: float = 1.0
) -> Judge:
    """The rewards of a job, with the reward model at a path below `spec` if one was named."""
    named = path in ready.context.models
    found = load_reward_model(ready, path) if named else None
    batch = ready.settings.micro_batch_size
    return Judge(ready.tokenizer, tuple(rewards or ()), found, weight, batch)


def load_reward_model(ready: Ready, path: str) -> RewardModel:
    """The reward model at a path below `spec`.

    Raises:
        TrainerError: UnsupportedModel or CorruptModel.
    """
    source, settings = ready.context.models[path], ready.settings
    head = heads.SEQUENCE_CLASSIFICATION
    net, tokenizer = load_source(source, head, settings.weights, settings.device)
    return RewardModel(net, tokenizer, ready.tokenizer, source=source.uri)


def _check_batches(settings: Settings, answers: int, rows: int) -> None:
    if settings.batch_size > rows:
        message = (
            f"`training.batchSize` is {settings.batch_size} prompts, but there are only {rows}"
        )
        raise TrainerError(Reason.INVALID_SPEC, message)
    total, count = settings.batch_size * answers, settings.processes
    if total % (settings.micro_batch_size * count):
        message = (
            f"`training.microBatchSize` {settings.micro_batch_size} does not divide the {total} "
            f"answers of a step ({settings.batch_size} prompts × {answers} answers)"
        )
        if count > 1:
            message += f" over {count} processes, which is {total // count} each"
        raise TrainerError(Reason.INVALID_SPEC, message)
