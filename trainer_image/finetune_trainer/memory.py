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
from finetune_kernels.ops.head import rows_of_a_chunk
from finetune_trainer import activations
from finetune_trainer.exchange import between_processes, kept_of_layer
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.layer_shape import WIDTHS, Pass
from finetune_trainer.recomputation import LayerMemory, Recomputation
from finetune_trainer.resolve import Settings
from finetune_trainer.strategies import Strategy
from finetune_trainer.tuning import virtual_tokens
from finetune_trainer.writing import NOTHING, ONLINE, Beside

OPTIMIZER_BYTES = {"AdamW": 8.0, "AdamW8bit": 2.0, "PagedAdamW8bit": 2.0, "Adafactor": 0.0}
"""Bytes that an optimiser keeps for each trained parameter: two moments in float32, or in 8 bits.
Adafactor keeps sums of rows and columns, which are next to nothing."""
RUNTIME = 2**30
"""Bytes that libraries take: driver and workspaces on a GPU, Python and its modules on a CPU."""
_HOLES = 0.5
"""Of what passes take on a CPU, glibc's heap takes so much more: tensors of many sizes leave holes in it."""
PAIRED = ("DPO", "IPO", "ORPO", "CPO", "SimPO", "Reward")
"""Methods whose rows are two sequences."""
TOKEN_CHUNK_SIZE, VOCAB_CHUNK_SIZE = 4096, 32768
"""Tiles of TRL's divergence of distributions; a test compares them, since importing TRL takes seconds."""
# Constants of bitsandbytes: one float32 for 64 numbers, or an eighth of that when quantised again.
_CONSTANT_BYTES = {True: 0.0159, False: 0.0625}

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
    """Bytes on one device, by what they are for.

    `exchange` is between processes, `judges` are models that judge answers or teach, and `answers` is how
    much more it takes to write and compare answers than to learn from them.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    reference: int
    runtime: int
    exchange: int = 0
    judges: int = 0
    answers: int = 0

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
    outline: Model,
    config: ModelConfig,
    spec: FineTuneJobSpec,
    settings: Settings,
    largest: Pass | None = None,
    beside: Beside = NOTHING,
) -> Memory:
    """What training needs at its peak.

    Args:
        outline: The model with its adapter, on the meta device.
        config: The base model's configuration.
        spec: Of the job.
        settings: All settings.
        largest: The largest forward pass; `padded` without it.
        beside: What is taken beside it.
    """
    trained = sum(each.numel() for each in outline.parameters() if each.requires_grad)
    weights = _weights(outline, spec.tuning, settings)
    layers = of_layers(outline, config, spec, settings, largest, beside)
    kept = _activations(layers, settings)
    return Memory(
        weights=weights + casts(outline, settings),
        gradients=4 * trained,
        optimizer=round(OPTIMIZER_BYTES[settings.optimizer] * trained),
        activations=kept - layers.loss,
        logits=layers.loss,
        reference=weights if _keeps_a_reference(spec) else 0,
        exchange=between_processes(outline, settings),
        judges=beside.judges,
        answers=max(0, beside.answers - kept),
        runtime=RUNTIME + (0 if settings.device == "cuda" else round(_HOLES * kept)),
    )


def of_layers(
    outline: Model,
    config: ModelConfig,
    spec: FineTuneJobSpec,
    settings: Settings,
    largest: Pass | None = None,
    beside: Beside = NOTHING,
) -> LayerMemory:
    """What the layers and the loss keep in one forward pass; the arguments are those of `estimate`."""
    largest = largest or padded(spec, settings)
    found = activations.of_layers(outline, config, spec.tuning, settings, largest)
    loss = _loss(outline, config, spec, settings, largest)
    kept = found.kept + kept_of_layer(outline, settings)
    return replace(found, kept=kept, loss=loss + beside.reading)


def padded(spec: FineTuneJobSpec, settings: Settings) -> Pass:
    """The largest pass where every row is as long as the longest."""
    sequences = settings.micro_batch_size * (2 if spec.method.type in PAIRED else 1)
    tokens = sequences * (settings.max_length + virtual_tokens.count(spec.tuning))
    chunked = spec.method.type in _CHUNKED and spec.model.task == "text-generation"
    return Pass(tokens, chunked)


def _activations(layers: LayerMemory, settings: Settings) -> int:
    if not settings.gradient_checkpointing:
        return layers.total(0)
    planned = settings.recomputation or Recomputation(layers.layers, layers.layers)
    return layers.total(planned.layers, offload=planned.offload)


def casts(outline: Model, settings: Settings) -> int:
    """Bytes that autocast keeps of weights until the forward pass is over; of parts it casts nothing."""
    if settings.precision != "BFloat16" or "weights" in settings.strategy.parts:
        return 0
    tables = {id(each.weight) for each in outline.modules() if isinstance(each, nn.Embedding)}
    head = outline.get_output_embeddings()
    tables -= {id(head.weight)} if head is not None else set()
    # Experts have their weights in one tensor, and autocast leaves them alone, as it does tables.
    cast = (p for p in outline.parameters() if p.requires_grad and p.dim() < 3)
    return sum(2 * each.numel() for each in cast if id(each) not in tables)


def _loss(
    outline: Model, config: ModelConfig, spec: FineTuneJobSpec, settings: Settings, largest: Pass
) -> int:
    """Of the last norm, the output layer and the loss."""
    text, width = config.get_text_config(), WIDTHS[settings.precision]
    # Input of the norm, what is scaled, its way back in float32; the hidden states and their gradient.
    hidden = largest.tokens * text.hidden_size * (20 + 2 * width)
    labelled = spec.model.task in ("text-classification", "token-classification")
    if labelled or spec.method.type == "Reward":
        return int(hidden)
    on_gpu, half = settings.device == "cuda", width == WIDTHS["BFloat16"]
    if spec.method.type == "Distillation":
        return int(hidden + _divergence(largest.tokens, config, settings))
    if not largest.chunked:
        # Logits and their gradient as they are, and in float32 with log-probabilities between.
        return int(hidden + (12 + 2 * width) * largest.tokens * text.vocab_size)
    rows = min(largest.tokens, rows_of_a_chunk(text.vocab_size, on_gpu=on_gpu))
    # The gradient of a trained output layer is there before it is added to what it belongs to.
    head = outline.get_output_embeddings()
    own = (6 if half else 4) * head.weight.numel() if head.weight.requires_grad else 0
    # Logits, log-probabilities, the gradient of the chunk before; in half precision, the product too.
    each = 14 if half else 12
    # At a temperature, and with entropies.
    each += 8 if spec.method.type in ONLINE else 0
    return int(hidden + own + each * rows * text.vocab_size)


def _divergence(tokens: int, config: ModelConfig, settings: Settings) -> int:
    """Of TRL's `ChunkedDivergenceFunction`: a tile of logits of student and teacher each, in float32."""
    tile = 4 * min(tokens, TOKEN_CHUNK_SIZE)
    found = 2 * tile * VOCAB_CHUNK_SIZE
    if settings.device == "cuda":
        return found
    # Without Triton, tiles are worked on as whole tensors.
    return int(found + 6 * tile * min(VOCAB_CHUNK_SIZE, config.get_text_config().vocab_size))


def _keeps_a_reference(spec: FineTuneJobSpec) -> bool:
    block = getattr(spec.method, spec.method.type.lower(), None)
    named = getattr(block, "reference", None)
    if named is not None and named.source is not None:
        return True
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
