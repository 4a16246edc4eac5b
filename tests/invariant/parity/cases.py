"""What is compared: each method in our words and in those of its library, and how near they must be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from invariant.parity import ours, stock, stock_labels, stock_online, workplace
from invariant.parity.curves import Curve
from invariant.parity.workplace import Row, Workplace

# Of single precision, where the arithmetic is the same and only the order of sums differs.
SAME = 1e-5
# Steps of the runs that differ in how a step is split.
SPLIT_STEPS = 4


@dataclass(frozen=True)
class Case:
    """One method.

    Attributes:
        name: Of the method, and of the task if it is not text generation.
        peer: The trainer that it is compared with, and its library; empty if there is none.
        rows: Makes the raw rows.
        stock: The curve of the peer.
        method: Our block; `{name}` of a model stands for its URI.
        spec: What else of our spec differs from run to run, at dotted paths.
        training: Of that, the settings of training.
        model: Of the base model.
        splits: Whether the same step can be split otherwise.
        means: What the loss of a step is a mean over.
        note: What a reader must know.
    """

    name: str
    peer: str
    rows: Callable[[], list[Row]]
    stock: Callable[[Workplace, Sequence[Row]], Curve] | None
    method: Mapping[str, Any]
    means: str
    note: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    model: str = "llama"
    splits: bool = True

    def ours(self, place: Workplace, **training: Any) -> ours.Run:
        """Our run, with other settings of training."""
        slug = "-".join([*self.name.lower().split(), *map(str, training.values())])
        data = place.data(slug, self.rows())
        kind = self.name.split()[0]
        block = {name: _filled(value, place) for name, value in self.method.items()}
        method = {"type": kind, kind.lower(): block} if block else {"type": kind}
        settings = {**ours.TRAINING, **self.training, **training}
        spec = {**self.spec, "method": method, "training": settings}
        return ours.run(place, slug, self.model, data, spec)

    @property
    def batch_size(self) -> int:
        """Rows of a step that are learned from."""
        size = int({**ours.TRAINING, **self.training}["batchSize"])
        return size * int(self.method.get("answersPerPrompt", 1))


def _filled(value: Any, place: Workplace) -> Any:
    if isinstance(value, str) and value in ("{teacher}", "{taste}"):
        return f"file://{place.model(value.strip('{}'))}"
    return value


def _task(name: str) -> dict[str, Any]:
    lora = {**ours.LORA["lora"], "targets": stock_labels.ATTENTION}
    return {"model.task": name, "tuning": {**ours.LORA, "lora": lora}}


_SAMPLED = {"generation": {"maxNewTokens": 8}}
_LETTER = [{"type": "Regex", "pattern": stock_online.LETTER}]
_GROUP = {"answersPerPrompt": 4, "beta": 0.05, "rewards": _LETTER, **_SAMPLED}
_PAIRS = workplace.pairs_of_answers
_TOKENS = "the supervised tokens"

CASES = (
    Case(
        "SFT", "SFTTrainer, TRL", workplace.answers, stock.sft, {}, _TOKENS,
        "two passes a step on both sides", training={"microBatchSize": 4},
    ),
    Case(
        "SFT text2text-generation", "Seq2SeqTrainer, transformers", workplace.summaries,
        stock_labels.text2text, {}, _TOKENS, spec={"model.task": "text2text-generation"}, model="t5",
    ),
    Case(
        "SFT text-classification", "Trainer, transformers", workplace.classes,
        stock_labels.text_classification, {}, "rows", spec=_task("text-classification"), model="bert",
    ),
    Case(
        "SFT token-classification", "Trainer, transformers", workplace.tagged,
        stock_labels.token_classification, {}, "tagged words",
        spec=_task("token-classification"), model="bert",
    ),
    Case(
        "SFT fill-mask", "Trainer, transformers", workplace.texts, stock_labels.fill_mask, {},
        "hidden tokens", "tokens to hide are drawn for each pass, so that other splits hide others",
        spec=_task("fill-mask"), model="bert", splits=False,
    ),
    Case(
        "Reward", "RewardTrainer, TRL", _PAIRS, stock.reward, {"centerCoefficient": 0.01},
        "pairs", "the peer is told our pad token, which ends no row",
    ),
    Case("DPO", "DPOTrainer, TRL", _PAIRS, partial(stock.dpo, beta=0.3), {"beta": 0.3}, "pairs"),
    Case(
        "IPO", "DPOTrainer, TRL", _PAIRS, partial(stock.dpo, beta=0.3, loss_type=["ipo"]),
        {"beta": 0.3}, "pairs",
    ),
    Case(
        "KTO", "KTOTrainer, TRL", workplace.verdicts, stock.kto,
        {"beta": 0.3, "desirableWeight": 0.9, "undesirableWeight": 1.4},
        "rows, and z₀ over the rows too", "the peer is given the rows in our order",
    ),
    Case(
        "ORPO", "ORPOTrainer, TRL experimental", _PAIRS, stock.orpo, {"beta": 0.5},
        "pairs, and for the likelihood the tokens of prompts and better answers",
    ),
    Case(
        "CPO", "CPOTrainer, TRL experimental", _PAIRS,
        partial(stock.cpo, beta=0.2, cpo_alpha=0.7), {"beta": 0.2, "alpha": 0.7},
        "pairs, and for the likelihood the tokens of better answers",
    ),
    Case(
        "SimPO", "CPOTrainer, TRL experimental", _PAIRS,
        partial(stock.cpo, loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=0.5),
        {"beta": 2.0, "gamma": 0.5}, "pairs",
    ),
    Case(
        "GRPO", "GRPOTrainer, TRL", workplace.prompts, stock_online.grpo, _GROUP,
        "the tokens of all answers", training={"batchSize": 2}, model="terse",
    ),
    Case(
        "RLOO", "RLOOTrainer, TRL", workplace.prompts, stock_online.rloo, _GROUP, "answers",
        "its loss is zero by nature, so the gradient tells", training={"batchSize": 2},
        model="terse",
    ),
    Case(
        "Distillation", "DistillationTrainer, TRL", workplace.prompts, stock_online.distillation,
        {"teacher": "{teacher}", **_SAMPLED}, "the tokens of all answers", model="terse",
    ),
    Case(
        "PPO", "", workplace.prompts, None, {"rewardModel": "{taste}", **_SAMPLED},
        "the tokens of all answers",
        "TRL has none any more; its formulas are tested by hand in `test_ppo_formulas.py`",
        model="terse",
    ),
)  # fmt: skip
