"""How much memory training needs, by counting: weights, gradients, optimiser, activations, logits.

Called by `recipes.course` with the outline of the model, before any weight is loaded. It is an
estimate: allocators waste a part, and kernels differ in what they keep; docs/guides/preflight.md says
how far off it is. What the layers keep is counted by `activations`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from torch import nn
from transformers.pytorch_utils import Conv1D

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.tuning import Quantization, Tuning, TuningType
from finetune_trainer import activations
from finetune_trainer.activations import WIDTHS
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.recomputation import LayerMemory, Recomputation
from finetune_trainer.resolve import Settings
from finetune_trainer.strategies import Strategy
from finetune_trainer.tuning import virtual_tokens

OPTIMIZER_BYTES = {"AdamW": 8.0, "AdamW8bit": 2.0, "PagedAdamW8bit": 2.0, "Adafactor": 0.0}
"""Bytes that an optimiser keeps for each trained parameter: two moments in float32, or in 8 bits.
Adafactor keeps sums of rows and columns, which are next to nothing."""
GPU_RUNTIME = 2**30
"""Bytes that the driver, the libraries and their workspaces take on a GPU."""
LOGIT_ROWS = 1024
"""Tokens whose logits exist at one time where the loss is taken in chunks."""
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
    trained = sum(each.numel() for each in outline.parameters() if each.requires_grad)
    weights = _weights(outline, spec.tuning, settings)
    layers = of_layers(outline, config, spec, settings)
    return Memory(
        weights=weights + _casts(trained, settings),
        gradients=4 * trained,
        optimizer=round(OPTIMIZER_BYTES[settings.optimizer] * trained),
        activations=_activations(layers, settings) - layers.loss,
        logits=layers.loss,
        reference=weights if _keeps_a_reference(spec) else 0,
        runtime=GPU_RUNTIME if settings.device == "cuda" else 0,
    )


def of_layers(
    outline: Model, config: ModelConfig, spec: FineTuneJobSpec, settings: Settings
) -> LayerMemory:
    """What the layers keep in one forward pass; the arguments are those of `estimate`."""
    tokens = _tokens(spec, settings)
    found = activations.of_layers(outline, config, spec.tuning, settings, tokens)
    return replace(found, loss=_loss(outline, config, spec, settings))


def _activations(layers: LayerMemory, settings: Settings) -> int:
    if not settings.gradient_checkpointing:
        return layers.total(0)
    planned = settings.recomputation or Recomputation(layers.layers, layers.layers)
    return layers.total(planned.layers, offload=planned.offload)


def _tokens(spec: FineTuneJobSpec, settings: Settings) -> int:
    sequences = settings.micro_batch_size * (2 if spec.method.type in _PAIRED else 1)
    return sequences * (settings.max_length + virtual_tokens.count(spec.tuning))


def _casts(trained: int, settings: Settings) -> int:
    """Autocast keeps what it cast to bfloat16 until the forward pass is over."""
    return 2 * trained if settings.precision == "BFloat16" else 0


def _loss(outline: Model, config: ModelConfig, spec: FineTuneJobSpec, settings: Settings) -> int:
    """Of the last norm, the output layer and the loss."""
    text, tokens = config.get_text_config(), _tokens(spec, settings)
    # Input of the norm, what is scaled, and the hidden states and their gradient.
    hidden = tokens * text.hidden_size * (8 + 2 * WIDTHS[settings.precision])
    labelled = spec.model.task in ("text-classification", "token-classification")
    if labelled or spec.method.type == "Reward":
        return hidden
    chunked = spec.method.type in _CHUNKED and spec.model.task == "text-generation"
    rows = min(tokens, LOGIT_ROWS) if chunked else tokens
    # The gradient of a trained output layer is there before it is added to what it belongs to.
    head = outline.get_output_embeddings() if chunked else None
    own = 4 * head.weight.numel() if head is not None and head.weight.requires_grad else 0
    # Logits and their gradient, in float32.
    return int(hidden + own + 2 * 4 * rows * text.vocab_size)


def _keeps_a_reference(spec: FineTuneJobSpec) -> bool:
    return spec.method.type in _COPIES.get(spec.tuning.type, ())


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
