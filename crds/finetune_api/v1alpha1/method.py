"""`spec.method`: the training objective. A union: a type, and at most the block of that type."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from finetune_api.meta import ApiModel, Kubernetes, Line, Rule, SourceUri, only_with

MethodType = Literal[
    "SFT",
    "Reward",
    "DPO",
    "IPO",
    "KTO",
    "ORPO",
    "CPO",
    "SimPO",
    "PPO",
    "GRPO",
    "RLOO",
    "Distillation",
]
Beta = Annotated[float, Field(ge=0, le=100)]
# Without any pull there is nothing to learn, and some losses divide by it.
Strength = Annotated[float, Field(gt=0, le=100)]
Coefficient = Annotated[float, Field(ge=0, le=1000)]
TokenCount = Annotated[int, Field(ge=1, le=131072)]
Temperature = Annotated[float, Field(gt=0, le=10)]


def _reward_needs(field: str, kinds: tuple[str, ...]) -> Rule:
    camel = to_camel(field)
    return Rule(
        cel=f"has(self.{camel}) || !(self.type in {list(kinds)})",
        message=f"{' and '.join(kinds)} need `{camel}`",
        check=lambda r: getattr(r, field) is not None or r.type not in kinds,
    )


def _reward_takes(field: str, kinds: tuple[str, ...]) -> Rule:
    camel = to_camel(field)
    return Rule(
        cel=f"!has(self.{camel}) || self.type in {list(kinds)}",
        message=f"`{camel}` is allowed only with {' and '.join(kinds)}",
        check=lambda r: getattr(r, field) is None or r.type in kinds,
    )


class Reference(ApiModel):
    """The reference policy of a preference method."""

    source: SourceUri | None = None
    """Weights of the reference; without it, the starting weights of this job."""

    precompute: bool = True
    """Compute the reference's log-probabilities once and keep them over epochs."""


class WeightedLoss(ApiModel):
    """One loss of a mixture."""

    type: Literal[
        "Sigmoid", "Hinge", "IPO", "ExoPair", "NCAPair", "Robust", "BCOPair", "SPPOHard", "AOT",
        "AOTUnpaired", "APOZero", "APODown", "DiscoPOP", "SFT", "SigmoidNorm",
    ]  # fmt: skip
    """Name of the loss."""

    weight: Coefficient = 1
    """Its weight in the sum."""


# Losses with the formula of which label smoothing is a part.
_SMOOTHED = ("ExoPair", "Robust", "AOT", "AOTUnpaired")


class DPO(ApiModel):
    """Direct Preference Optimisation (Rafailov et al. 2023, arXiv 2305.18290)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.labelSmoothing == 0.0 || self.losses.exists(l, l.type in {list(_SMOOTHED)})",
            message=f"`labelSmoothing` is part of the losses {', '.join(_SMOOTHED)} only",
            check=lambda d: not d.label_smoothing or any(o.type in _SMOOTHED for o in d.losses),
        ),
        Rule(
            cel="self.labelSmoothing > 0.0 || !self.losses.exists(l, l.type == 'ExoPair')",
            message="the loss ExoPair needs a `labelSmoothing` above 0 (its authors take 0.001)",
            check=lambda d: d.label_smoothing or all(o.type != "ExoPair" for o in d.losses),
        ),
    )

    beta: Strength = 0.1
    """Strength of the pull to the reference."""

    losses: Annotated[
        list[WeightedLoss], Field(min_length=1, max_length=4), Kubernetes("atomic")
    ] = [WeightedLoss(type="Sigmoid")]
    """Losses that are added, by weight."""

    # Not `lt=0.5`: the API server cuts a fractional bound to a whole number when the value is one,
    # so that 0 would have to be less than 0.
    label_smoothing: Annotated[float, Field(ge=0, le=0.49)] = 0
    """Assumed share of wrongly ordered pairs."""

    reference: Reference | None = None
    """The reference policy; without it, the starting weights of this job."""


class IPO(ApiModel):
    """Identity Preference Optimisation (Azar et al. 2023, arXiv 2310.12036)."""

    beta: Strength = 0.1
    """Regularisation (tau in the paper)."""

    reference: Reference | None = None
    """The reference policy; without it, the starting weights of this job."""


class KTO(ApiModel):
    """Kahneman-Tversky Optimisation (Ethayarajh et al. 2024, arXiv 2402.01306)."""

    beta: Strength = 0.1
    """Strength of the pull to the reference."""

    desirable_weight: Coefficient = 1
    """Weight of rows labelled good."""

    undesirable_weight: Coefficient = 1
    """Weight of rows labelled bad."""

    reference: Reference | None = None
    """The reference policy; without it, the starting weights of this job."""


class ORPO(ApiModel):
    """Odds Ratio Preference Optimisation (Hong et al. 2024, arXiv 2403.07691)."""

    beta: Strength = 0.1
    """Weight of the odds-ratio term (lambda in the paper)."""


class CPO(ApiModel):
    """Contrastive Preference Optimisation (Xu et al. 2024, arXiv 2401.08417)."""

    beta: Strength = 0.1
    """Strength of the preference term."""

    alpha: Coefficient = 1
    """Weight of the likelihood term on the chosen answer."""


class SimPO(ApiModel):
    """Simple Preference Optimisation (Meng et al. 2024, arXiv 2405.14734)."""

    beta: Strength = 2.0
    """Scale of the length-normalised reward."""

    gamma: Coefficient = 0.5
    """Target reward margin."""


class RewardModelling(ApiModel):
    """Reward model on preference pairs (Bradley-Terry)."""

    center_coefficient: Coefficient = 0
    """Pull of the mean reward to zero (Eisenstein et al. 2023, arXiv 2312.09244)."""


class Generation(ApiModel):
    """How a policy answers while it is trained."""

    max_new_tokens: TokenCount = 256
    """Longest answer in tokens."""

    temperature: Temperature = 1.0
    """Sampling temperature."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling threshold."""


class PPO(ApiModel):
    """Proximal Policy Optimisation against a reward model (Schulman et al. 2017, arXiv 1707.06347)."""

    reward_model: SourceUri
    """The reward model: `job://name` of a Reward job, `s3://`, `hf://` or `pvc://`."""

    kl_coefficient: Coefficient = 0.05
    """Penalty on the KL divergence from the reference, at the start when adaptive."""

    kl_target: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Target KL of the adaptive controller; without it, the penalty is fixed."""

    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Clip range of the policy ratio."""

    value_clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far an update may move a value, in units of the reward."""

    value_learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Learning rate of the value head, which begins with nothing and is not part of the output."""

    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Discount factor."""

    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Generalised advantage estimation lambda (arXiv 1506.02438)."""

    epochs: Annotated[int, Field(ge=1, le=64)] = 4
    """Optimisation passes over each batch of answers."""

    minibatches: Annotated[int, Field(ge=1, le=1024)] = 1
    """Updates a pass: the batch is cut into so many equal parts, anew in each pass."""

    whiten_rewards: bool = False
    """Normalise rewards within a batch."""

    missing_eos_penalty: Coefficient | None = None
    """Amount taken from the reward of an answer that does not end."""

    generation: Generation = Generation()
    """How answers are sampled."""


class RewardFunction(ApiModel):
    """One verifiable reward, from 0 to 1. There is no way to name code."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *(
            _reward_needs(field, kinds)
            for field, kinds in {
                "column": ("ExactMatch", "NumericAnswer"),
                "pattern": ("Regex", "Format"),
                "target_tokens": ("Length",),
            }.items()
        ),
        *(
            _reward_takes(field, kinds)
            for field, kinds in {
                "column": ("ExactMatch", "NumericAnswer", "Regex"),
                "pattern": ("Regex", "Format"),
                "target_tokens": ("Length",),
                "json_schema": ("JSONSchema",),
            }.items()
        ),
    )

    type: Literal["ExactMatch", "Regex", "NumericAnswer", "Length", "JSONSchema", "Format"]
    """Which function of the built-in library."""

    weight: Annotated[float, Field(ge=-1000, le=1000)] = 1
    """Its weight in the sum."""

    column: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column that holds the expected answer, for `ExactMatch`, `NumericAnswer` and, if what the
    pattern captures is to be compared, `Regex`."""

    pattern: Line | None = None
    """Regular expression: found anywhere for `Regex`, matching the whole answer for `Format`."""

    target_tokens: TokenCount | None = None
    """Wanted answer length, for `Length`."""

    json_schema: Annotated[str, Field(max_length=16384)] | None = None
    """JSON Schema document, for `JSONSchema`. Without it, any JSON is right."""

    tolerance: Annotated[float, Field(ge=0, le=1000)] = 1e-6
    """Accepted difference for `NumericAnswer`, relative to the expected number (absolute below 1)."""


class GroupSampling(ApiModel):
    """Rewards and sampling of the group methods GRPO and RLOO."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.rewards) || has(self.rewardModel)",
            message="give `rewards`, a `rewardModel`, or both",
            check=lambda g: g.rewards is not None or g.reward_model is not None,
        ),
    )

    rewards: (
        Annotated[list[RewardFunction], Field(min_length=1, max_length=16), Kubernetes("atomic")]
        | None
    ) = None
    """Verifiable rewards, added by weight."""

    reward_model: SourceUri | None = None
    """A reward model: `job://name` of a Reward job, `s3://`, `hf://` or `pvc://`."""

    reward_model_weight: Annotated[float, Field(ge=-1000, le=1000)] = 1
    """Weight of the reward model's score in the sum."""

    answers_per_prompt: Annotated[int, Field(ge=2, le=128)] = 8
    """Answers sampled for each prompt (the group)."""

    beta: Beta = 0
    """Penalty on the KL divergence from the reference."""

    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Clip range of the policy ratio."""

    generation: Generation = Generation()
    """How answers are sampled."""


class GRPO(GroupSampling):
    """Group Relative Policy Optimisation (Shao et al. 2024, arXiv 2402.03300)."""

    loss: Literal["DAPO", "GRPO", "DrGRPO", "BNPO"] = "DAPO"
    """How token losses are averaged."""


class RLOO(GroupSampling):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740)."""

    beta: Beta = 0.05
    """Penalty on the KL divergence from the reference."""


class Distillation(ApiModel):
    """On-policy distillation from a teacher."""

    teacher: SourceUri
    """The teacher model."""

    beta: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Between forward (0) and reverse (1) KL divergence."""

    generation: Generation = Generation()
    """How the student answers."""


class Method(ApiModel):
    """The objective: `type`, and settings in the block of the same name."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *(
            only_with(block, kind)
            for block, kind in {
                "reward": "Reward", "dpo": "DPO", "ipo": "IPO", "kto": "KTO", "orpo": "ORPO",
                "cpo": "CPO", "simpo": "SimPO", "ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO",
                "distillation": "Distillation",
            }.items()
        ),
        Rule(
            cel="self.type != 'PPO' || has(self.ppo)",
            message="PPO needs `ppo.rewardModel`",
            check=lambda m: m.type != "PPO" or m.ppo is not None,
        ),
        Rule(
            cel="self.type != 'GRPO' || has(self.grpo)",
            message="GRPO needs `grpo.rewards` or `grpo.rewardModel`",
            check=lambda m: m.type != "GRPO" or m.grpo is not None,
        ),
        Rule(
            cel="self.type != 'RLOO' || has(self.rloo)",
            message="RLOO needs `rloo.rewards` or `rloo.rewardModel`",
            check=lambda m: m.type != "RLOO" or m.rloo is not None,
        ),
        Rule(
            cel="self.type != 'Distillation' || has(self.distillation)",
            message="Distillation needs `distillation.teacher`",
            check=lambda m: m.type != "Distillation" or m.distillation is not None,
        ),
    )  # fmt: skip

    type: MethodType = "SFT"
    """The training method."""

    reward: RewardModelling | None = None
    """Settings of `type: Reward`."""

    dpo: DPO | None = None
    """Settings of `type: DPO`."""

    ipo: IPO | None = None
    """Settings of `type: IPO`."""

    kto: KTO | None = None
    """Settings of `type: KTO`."""

    orpo: ORPO | None = None
    """Settings of `type: ORPO`."""

    cpo: CPO | None = None
    """Settings of `type: CPO`."""

    simpo: SimPO | None = None
    """Settings of `type: SimPO`."""

    ppo: PPO | None = None
    """Settings of `type: PPO`."""

    grpo: GRPO | None = None
    """Settings of `type: GRPO`."""

    rloo: RLOO | None = None
    """Settings of `type: RLOO`."""

    distillation: Distillation | None = None
    """Settings of `type: Distillation`."""

    def model_uris(self) -> Iterator[tuple[str, str]]:
        """Every model that the method reads beside the one that is trained, with its path here."""
        if self.ppo:
            yield "ppo.rewardModel", self.ppo.reward_model
        for name, sampling in (("grpo", self.grpo), ("rloo", self.rloo)):
            if sampling and sampling.reward_model:
                yield f"{name}.rewardModel", sampling.reward_model
        if self.distillation:
            yield "distillation.teacher", self.distillation.teacher
        for name, block in (("dpo", self.dpo), ("ipo", self.ipo), ("kto", self.kto)):
            if block and block.reference and block.reference.source:
                yield f"{name}.reference.source", block.reference.source
