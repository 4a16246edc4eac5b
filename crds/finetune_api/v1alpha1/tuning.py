"""`spec.tuning`: which parameters move. Orthogonal to the method."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetune_api.meta import ApiModel, Kubernetes, Line, Rule, only_with

TuningType = Literal[
    "Full", "LoRA", "QLoRA", "AdaLoRA", "IA3", "PrefixTuning", "PromptTuning", "PTuning", "Other"
]
VIRTUAL_TOKENS: tuple[TuningType, ...] = ("PrefixTuning", "PromptTuning", "PTuning")
"""What learns virtual tokens before the text and leaves the model as it is."""
Rank = Annotated[int, Field(ge=1, le=1024)]
ModuleName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[-A-Za-z0-9_.*]+$")]
Modules = Annotated[list[ModuleName], Field(min_length=1, max_length=64), Kubernetes("set")]
VirtualTokens = Annotated[int, Field(ge=1, le=4096)]


class LoRA(ApiModel):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Rank = 16
    """Rank of the update."""

    alpha: Annotated[float, Field(gt=0, le=4096)] = 32
    """Scale: the update is multiplied by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0
    """Dropout on the adapter's input. The fused kernels need 0."""

    targets: Modules = ["all-linear"]
    """Names of the modules that get an adapter; `all-linear` means all but the output head."""

    variant: Literal["Standard", "RsLoRA", "DoRA", "PiSSA", "OLoRA", "LoftQ"] = "Standard"
    """Variant of the scaling, the decomposition or the start."""

    learning_rate_ratio: Annotated[float, Field(gt=0, le=1000)] | None = None
    """LoRA+ (arXiv 2402.12354): learning rate of B over that of A."""


class Quantization(ApiModel):
    """How the frozen base is held in memory."""

    type: Literal["NF4", "FP4", "Int8"] = "NF4"
    """Number format of the base weights."""

    double_quant: bool = True
    """Quantise the quantisation constants too (4-bit formats)."""


class AdaLoRA(ApiModel):
    """Adaptive rank allocation (Zhang et al. 2023, arXiv 2303.10512)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.targetRank <= self.initialRank",
            message="`targetRank` cannot exceed `initialRank`: ranks are only pruned",
            check=lambda a: a.target_rank <= a.initial_rank,
        ),
    )

    initial_rank: Rank = 12
    """Rank of each matrix at the start."""

    target_rank: Rank = 8
    """Average rank at the end."""

    alpha: Annotated[float, Field(gt=0, le=4096)] = 32
    """Scale of the update."""

    targets: Modules = ["all-linear"]
    """Names of the modules that get an adapter."""


class IA3(ApiModel):
    """Learned rescaling of activations (Liu et al. 2022, arXiv 2205.05638)."""

    targets: Modules | None = None
    """Names of the modules; without it, those known for the architecture."""


class VirtualTokenTuning(ApiModel):
    """Learned virtual tokens: prefix tuning, prompt tuning, P-tuning."""

    virtual_tokens: VirtualTokens = 20
    """How many virtual tokens are learned."""

    initial_text: Line | None = None
    """Text whose embeddings start prompt tuning; random tokens without it."""


class OtherAdapter(ApiModel):
    """Any other PEFT adapter, by PEFT's own name, with arguments checked in the trainer."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_]+$")]
    """PEFT type, such as `VERA` or `LOHA`."""

    arguments: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    """Arguments of its configuration class; unknown names are refused with the nearest ones."""


class Tuning(ApiModel):
    """What is trained: all weights, or an adapter of some type."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.lora) || self.type in ['LoRA', 'QLoRA']",
            message="`lora` is allowed only with `type: LoRA` or `type: QLoRA`",
            check=lambda t: t.lora is None or t.type in ("LoRA", "QLoRA"),
        ),
        Rule(
            cel="(self.type == 'QLoRA') == has(self.quantization)",
            message="`type: QLoRA` needs `quantization`, and `quantization` needs `type: QLoRA`",
            check=lambda t: (t.type == "QLoRA") == (t.quantization is not None),
        ),
        only_with("adalora", "AdaLoRA"),
        only_with("ia3", "IA3"),
        Rule(
            cel="!has(self.virtualTokens) || self.type in ['PrefixTuning', 'PromptTuning', 'PTuning']",
            message="`virtualTokens` is allowed only with PrefixTuning, PromptTuning and PTuning",
            check=lambda t: t.virtual_tokens is None or t.type in VIRTUAL_TOKENS,
        ),
        Rule(
            cel="!has(self.virtualTokens) || !has(self.virtualTokens.initialText)"
            " || self.type == 'PromptTuning'",
            message="`virtualTokens.initialText` is allowed only with PromptTuning",
            check=lambda t: (
                t.virtual_tokens is None
                or t.virtual_tokens.initial_text is None
                or t.type == "PromptTuning"
            ),
        ),
        Rule(
            cel="(self.type == 'Other') == has(self.other)",
            message="`type: Other` needs `other.name`, and `other` needs `type: Other`",
            check=lambda t: (t.type == "Other") == (t.other is not None),
        ),
    )

    type: TuningType = "LoRA"
    """Which parameters are trained."""

    lora: LoRA | None = None
    """Settings of LoRA and QLoRA."""

    quantization: Quantization | None = None
    """Settings of the base weights of QLoRA."""

    adalora: AdaLoRA | None = None
    """Settings of AdaLoRA."""

    ia3: IA3 | None = None
    """Settings of IA3."""

    virtual_tokens: VirtualTokenTuning | None = None
    """Settings of PrefixTuning, PromptTuning and PTuning."""

    other: OtherAdapter | None = None
    """Settings of another PEFT type."""
