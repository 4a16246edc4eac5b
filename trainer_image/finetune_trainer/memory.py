"""How much memory training needs, by counting: weights, gradients, optimiser, activations, logits.

Called by `recipes.course` with the outline of the model, before any weight is loaded. It is an
estimate: allocators waste a part, and kernels differ in what they keep; docs/guides/preflight.md says
how far off it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from torch import nn
from transformers.pytorch_utils import Conv1D

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.tuning import Quantization, Tuning, TuningType
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.resolve import Settings
from finetune_trainer.strategies import Strategy

WIDTHS = {"Float32": 4, "BFloat16": 2}
"""Bytes of a number."""
OPTIMIZER_BYTES = {"AdamW": 8.0, "AdamW8bit": 2.0, "PagedAdamW8bit": 2.0, "Adafactor": 0.0}
"""Bytes that an optimiser keeps for each trained parameter: two moments in float32, or in 8 bits.
Adafactor keeps sums of rows and columns, which are next to nothing."""
GPU_RUNTIME = 2**30
"""Bytes that the driver, the libraries and their workspaces take on a GPU."""
LOGIT_ROWS = 1024
"""Tokens whose logits exist at one time where the loss is taken in chunks."""
# Numbers that one layer keeps for the backward pass, a token: in multiples of the hidden size (both
# norms, residuals, queries, attention output, inputs of projections) and of the inner size of the
# feed-forward block (gate, up, activation, product).
_OF_HIDDEN, _OF_INNER = 8, 4
# Constants of bitsandbytes: one float32 for 64 numbers, or an eighth of that when quantised again.
_CONSTANT_BYTES = {True: 0.0159, False: 0.0625}

_PAIRED = ("DPO", "IPO", "ORPO", "CPO", "SimPO", "Reward")
_COPIES: dict[TuningType, tuple[MethodType, ...]] = {
    "Full": ("DPO", "IPO", "KTO", "PPO"),
    # Nobody knows whether such an adapter starts at nothing.
    "Other": ("PPO", "GRPO", "RLOO"),
}
"""Methods that keep the model as it was in memory, by what is trained."""
# Their loss never has the logits of all tokens at once.
_CHUNKED = ("SFT", "DPO", "IPO", "KTO", "GRPO", "RLOO")


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    reference: int
    runtime: int

    def divided(self, processes: int, parts: tuple[str, ...]) -> "Memory":
        """The same where each process holds its part of some of it, such as of the optimiser."""
        return replace(self, **{name: getattr(self, name) // processes for name in parts})

    def spread(self, strategy: Strategy, processes: int) -> tuple["Memory", int]:
        """What a strategy makes of it.

        Args:
            strategy: How the model is spread.
            processes: Over how many.

        Returns:
            What is left on each device, and the bytes that each process has in the memory of the host.
        """
        # DeepSpeed steps a copy of what is trained, in float32 as gradients are.
        copy = self.gradients if strategy.zero else 0
        parts = replace(self, optimizer=self.optimizer + copy)
        parts = parts.divided(processes, strategy.parts)
        host = sum(getattr(parts, name) for name in strategy.offloaded)
        return replace(parts, **dict.fromkeys(strategy.offloaded, 0)), host

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        """The parts, the empty ones left out."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name} {in_words(size)}" for name, size in parts.items() if size)


def estimate(
    outline: Model, config: ModelConfig, spec: FineTuneJobSpec, settings: Settings
) -> Memory:
    """What training needs at its peak.

    Args:
        outline: The model with its adapter, on the meta device.
        config: The base model's configuration.
        spec: Of the job.
        settings: All settings.
    """
    parameters = list(outline.parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    weights = _weights(outline, spec.tuning, settings)
    copied = spec.method.type in _COPIES.get(spec.tuning.type, ())
    shape = _Shape.of(config)
    sequences = settings.micro_batch_size * (2 if spec.method.type in _PAIRED else 1)
    tokens = sequences * settings.max_length
    return Memory(
        weights=weights,
        gradients=4 * trained,
        optimizer=round(OPTIMIZER_BYTES[settings.optimizer] * trained),
        activations=shape.activations(tokens, settings),
        logits=shape.logits(tokens, spec),
        reference=weights if copied else 0,
        runtime=GPU_RUNTIME if settings.device == "cuda" else 0,
    )


@dataclass(frozen=True)
class _Shape:
    hidden: int
    inner: int
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, config: ModelConfig) -> "_Shape":
        text = config.get_text_config()
        hidden = text.hidden_size
        # Each family has its own name for the width of the feed-forward block, or none for 4.
        widths = (getattr(text, name, None) for name in ("intermediate_size", "n_inner", "d_ff"))
        inner = next((width for width in widths if width), 4 * hidden)
        layers = text.num_hidden_layers + (getattr(text, "num_decoder_layers", None) or 0)
        return cls(hidden, inner, layers, text.vocab_size)

    def activations(self, tokens: int, settings: Settings) -> int:
        width = WIDTHS[settings.precision]
        layer = tokens * width * (_OF_HIDDEN * self.hidden + _OF_INNER * self.inner)
        if not settings.gradient_checkpointing:
            return layer * self.layers
        # The input of every layer is kept, and one layer at a time is computed again.
        return tokens * width * self.hidden * self.layers + layer

    def logits(self, tokens: int, spec: FineTuneJobSpec) -> int:
        if spec.model.task in ("text-classification", "token-classification"):
            return 0
        chunked = spec.method.type in _CHUNKED and spec.model.task == "text-generation"
        rows = min(tokens, LOGIT_ROWS) if chunked else tokens
        # Logits and their gradient, in float32.
        return 0 if spec.method.type == "Reward" else 2 * 4 * rows * self.vocabulary


def _weights(outline: Model, tuning: Tuning, settings: Settings) -> int:
    width = WIDTHS[settings.weights]
    packed = set(_packed(outline)) if tuning.quantization else set()
    total = 0.0
    for name, parameter in outline.named_parameters():
        if name in packed and tuning.quantization:
            total += parameter.numel() * _packed_bytes(tuning.quantization)
        else:
            # Adapters are trained in float32, whatever the base is held in.
            total += parameter.numel() * (4 if parameter.requires_grad else width)
    return round(total)


def _packed(outline: Model) -> Iterable[str]:
    head = outline.get_output_embeddings()
    frozen = (name for name, each in outline.named_parameters() if not each.requires_grad)
    for name in frozen:
        module = outline.get_submodule(name.rpartition(".")[0])
        linear = isinstance(module, nn.Linear | Conv1D) and module is not head
        # The original of a classifier that is trained is held as it is.
        if name.endswith(".weight") and linear and ".original_module." not in name:
            yield name


def _packed_bytes(quantization: Quantization) -> float:
    if quantization.type == "Int8":
        return 1.0
    return 0.5 + _CONSTANT_BYTES[quantization.double_quant]


def in_words(size: int) -> str:
    """A number of bytes for people.

    >>> in_words(3 * 2**29), in_words(5 * 2**20)
    ('1.5 GiB', '5.0 MiB')
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
