"""What GRPO and RLOO have in common: groups of answers, rewards, a reference, and figures.

Both are TRL's trainers. A step takes `training.batchSize` prompts and learns from `answersPerPrompt`
answers to each, written at once by the policy as it is.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from trl.trainer.utils import add_fused_lm_head

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.method import Generation, GroupSampling
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import reference
from finetune_trainer.answering import Sampling
from finetune_trainer.callback import WatchCallback
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import PromptRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.fast import answer_head, groups, shared_prefill, told
from finetune_trainer.fast.told import Fitted
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.recipes.group_reference import InOnePass, against_one_pass
from finetune_trainer.recipes.online import Online, judge, verifiable
from finetune_trainer.recipes.prompts import OurPrompts
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.reference import Reference
from finetune_trainer.resolve import Machine, Settings
from finetune_trainer.rewards.judge import Judge
from finetune_trainer.watch import Measures, Watch

logger = logging.getLogger(__name__)

# Name in TRL's log -> ours.
FIGURES = {
    "reward": "reward",
    "reward_std": "rewardDeviation",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clipFraction",
    "frac_reward_zero_std": "zeroVarianceShare",
    "completions/mean_length": "responseLength",
    "completions/clipped_ratio": "truncatedShare",
}
# Groups whose answers all got the same reward teach nothing; with so many, hardly anything does.
TOO_MANY_EQUAL = 0.8


class GroupTrainer(InOnePass, OurPrompts):
    """Overrides of TRL's group trainers.

    Attributes:
        judge: All rewards.
        reference: The reference policy, or None where nothing is compared with it.
        fitted: The fast paths of the model.
        fitted_reference: Those of the reference, if that is a copy.
        equal_steps: Steps in which no group had answers of different rewards.
    """

    def __init__(
        self,
        *,
        judge: Judge,
        reference: Reference | None,
        beta: float,
        how: Sampling,
        rows: Sequence[PromptRow],
        **arguments: Foreign,
    ) -> None:
        self.judge = judge
        self.reference = reference
        self.equal_steps = 0
        self._warned = False
        functions = [_function(judge, name, rows, how.stop_ids) for name in judge.weights]
        super().__init__(rows=rows, how=how, reward_funcs=functions, **arguments)
        longest = max(len(row.prompt_ids) for row in rows) + how.max_new_tokens
        fit = partial(
            answer_head.install, longest=longest, temperature=how.temperature, entropies=True
        )
        self.fitted = fit(self.model)  # type: ignore[attr-defined]
        self.fitted_reference: Fitted | None = None
        # Given at once, it would make TRL read the reference from the folder of the base model, or keep
        # a second adapter that would be published with the first.
        self.beta = beta
        if beta and reference and reference.copy is not None:
            self.ref_model = _with_log_probabilities(reference.copy, arguments["args"])
            self.fitted_reference = fit(self.ref_model)
        if beta and reference:
            self.against_one_pass = against_one_pass(
                self.model,  # type: ignore[attr-defined]
                reference,
                self.fitted,
                self.num_iterations,  # type: ignore[attr-defined]
            )

    def _prepare_inputs(self, generation_batch: Foreign) -> Foreign:
        """The answers of a pass; TRL draws by lot which they are, and here a pass has those to one prompt."""
        own: Foreign = self
        trainer: Foreign = super()
        before = own._buffered_inputs
        inputs = trainer._prepare_inputs(generation_batch)
        if own._buffered_inputs is before:
            return inputs
        own._buffered_inputs = groups.together(own._buffered_inputs)
        return own._buffered_inputs[own._step % len(own._buffered_inputs)]

    def log(self, logs: dict[str, float], *rest: Foreign) -> None:
        """Count steps without a difference, on the way to TRL's log."""
        share = _mean(self._metrics["train"].get("frac_reward_zero_std"))  # type: ignore[attr-defined]
        self.equal_steps += share == 1
        if share >= TOO_MANY_EQUAL and not self._warned:
            self._warned = True
            logger.warning(
                "%d %% of the groups of a step have answers that all got the same reward: "
                "they teach nothing. Sample more answers, or choose rewards that tell more apart",
                round(100 * share),
            )
        trainer: Foreign = super()
        trainer.log(logs, *rest)

    def train(self, *arguments: Foreign, **named: Foreign) -> Foreign:
        """All steps.

        Raises:
            TrainerError: NoRewardSignal if no step had anything to learn from.
        """
        result = super().train(*arguments, **named)
        steps = self.state.global_step  # type: ignore[attr-defined]
        if steps and self.equal_steps >= steps:
            message = (
                f"in all {steps} steps, the answers to each prompt got equal rewards, so that nothing "
                "could be learned"
            )
            raise TrainerError(Reason.NO_REWARD_SIGNAL, message)
        return result


class Group(Online):
    """A method that compares answers to the same prompt."""

    name: str
    """Of the block in the spec."""

    @abstractmethod
    def block(self, spec: FineTuneJobSpec) -> GroupSampling:
        """The method's block."""

    @abstractmethod
    def trainer(self, ready: Ready, weights: list[float]) -> tuple[Callable[..., Foreign], Foreign]:
        """The trainer's class and its configuration."""

    def generation(self, spec: FineTuneJobSpec) -> Generation:
        """How answers are written."""
        return self.block(spec).generation

    def answers_per_prompt(self, spec: FineTuneJobSpec) -> int:
        """The size of a group."""
        return self.block(spec).answers_per_prompt

    def resolve(
        self, spec: FineTuneJobSpec, machine: Machine, data: Prepared[Any]
    ) -> tuple[Settings, list[Resolved]]:
        """Every setting, and what the reference is; what cannot be rewarded is told here."""
        settings, chosen = super().resolve(spec, machine, data)
        verifiable(data, self.name, self.block(spec).rewards)
        if self._compares(spec):
            chosen = [*chosen, reference.told(spec.tuning, f"method.{self.name}.reference")]
        return settings, chosen

    def settle(self, ready: Ready, net: Model) -> Ready:
        """The run, with passes as large as shared prompts allow."""
        answer = self.generation(ready.spec).max_new_tokens
        return groups.settle(ready, net, self.answers_per_prompt(ready.spec), answer)

    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """TRL's trainer with our prompts, our rewards and our watch."""
        spec = ready.spec
        block = self.block(spec)
        rewards = verifiable(ready.data, self.name, block.rewards)
        all_rewards = judge(
            ready, f"method.{self.name}.rewardModel", rewards, block.reward_model_weight
        )
        how = self.sampling(ready, net)
        # TRL takes the stop tokens from here.
        net.generation_config.eos_token_id = list(how.stop_ids)
        trainer, configuration = self.trainer(ready, list(all_rewards.weights.values()))
        return trainer(
            judge=all_rewards,
            reference=Reference.of(net, spec.tuning, ready.before)
            if self._compares(spec)
            else None,
            beta=block.beta,
            how=how,
            rows=ready.data.train,
            model=net,
            args=configuration,
            processing_class=ready.tokenizer,
            callbacks=[WatchCallback(watch)],
        )

    def fast_paths(self, ready: Ready, trainer: Foreign) -> list[Resolved]:
        """What became of prompts, of the log-probabilities of answers, and of the reference."""
        fitted = told.answers(trainer.fitted, trainer.fitted_reference)
        prompts = told.prompts(shared_prefill.why_not(trainer.model))
        if not (trainer.beta and trainer.reference):
            return [*fitted, prompts]
        return [*fitted, prompts, told.reference(trainer.against_one_pass)]

    def measure(self, ready: Ready, trainer: Foreign) -> Measures:
        """Mean reward of greedy answers to the held-out prompts, and how far they are from the reference."""
        held_out = self.held_out(ready, trainer.model)
        answers = held_out.answers(trainer.model)
        scores = trainer.judge.totals(held_out.rows, answers)
        measures = {"reward": sum(scores) / len(scores), **held_out.lengths(answers)}
        if trainer.reference:
            kl = held_out.divergence(trainer.model, answers, trainer.reference.logits)
            measures["kl"] = kl
        return measures

    def figures(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """The figures of a step, and the mean of each reward."""
        own = {ours: float(logs[name]) for name, ours in FIGURES.items() if name in logs}
        means = {
            f"reward{name.split('/')[1]}": float(value)
            for name, value in logs.items()
            if name.startswith("rewards/") and name.endswith("/mean")
        }
        # The API takes sixteen; one reward alone is the sum.
        return own | (means if 1 < len(means) <= 16 - len(FIGURES) else {})

    def _compares(self, spec: FineTuneJobSpec) -> bool:
        # A copy of the whole model is kept only where the penalty needs it.
        return self.block(spec).beta > 0 or not reference.copies(spec.tuning)


def _function(
    judge: Judge, name: str, rows: Sequence[PromptRow], stop_ids: Sequence[int]
) -> Callable[..., list[float]]:
    """One reward as TRL calls it."""

    def score(prompts: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        exchanges = [
            judge.exchange(rows[int(number)], ids, ended=ids[-1] in stop_ids)
            for number, ids in zip(prompts, completion_ids, strict=True)
        ]
        return judge.scores(name, exchanges)

    score.__name__ = name
    return score


def _with_log_probabilities(copy: Model, configuration: Foreign) -> Model:
    inner = copy.get_base_model() if hasattr(copy, "get_base_model") else copy
    add_fused_lm_head(inner, temperature=configuration.temperature)
    return copy


def _mean(values: Sequence[float] | None) -> float:
    return sum(values) / len(values) if values else 0.0
