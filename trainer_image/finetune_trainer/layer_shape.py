"""Sizes of a model's layers and of the largest pass, read off an outline and a configuration.

Called by `activations`, `adapter_memory` and `writing`, which count bytes by them. Nothing is measured.
"""

from dataclasses import dataclass, replace

from torch import nn

from finetune_trainer.fast import recompute
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.resolve import Settings

WIDTHS = {"Float32": 4, "BFloat16": 2}
"""Bytes of a number."""
WITH_DROPOUT = 3
"""Tensors as wide as T5's feed-forward block: activation, the mask of its dropout, and what that leaves."""
# Activations that are one operation: before and after it. Others are steps of a GELU in Python.
_WHOLE = ("gelu", "gelu_pytorch_tanh", "relu", "silu", "tanh")
_PLAIN, _STEPS = 2, 5


@dataclass(frozen=True)
class Pass:
    """The largest forward pass of a run.

    Attributes:
        tokens: Whose activations the layers keep.
        chunked: Whether the loss is read from hidden states, and logits exist a few rows at a time.
        flat: Whether its rows stand in one row, each attending to itself.
        lora_blocks: Whether layers run the LoRA blocks of `finetune_kernels`, which keep less.
    """

    tokens: int
    chunked: bool
    flat: bool = False
    lora_blocks: bool = False


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, in numbers a token.

    Attributes:
        hidden: Of the residual stream.
        inner: Of the feed-forward block.
        layers: How many there are.
        queries: Of all heads.
        keys: Of all heads that have keys of their own; values are as many.
        heads: How many.
        norms: Inputs of the norms of a layer, together.
        gated: Whether the feed-forward block is.
        plain: Tensors as wide as one that is not gated.
        experts: Whose feed-forward blocks a token goes through; 0 where there is one block.
        rotary: Whether queries and keys are rotated.
        whole_norms: Whether a norm is one operation.
        crossed: Whether decoder layers attend to an encoder too.
        encoders: Layers of that encoder.
        stack: Part of the names of layers of this kind; empty where all are.
        depth: How many of this kind there are.
        scores: For each token, where attention keeps its scores; else 0.
        lora_blocks: As in `Pass`.
    """

    hidden: int
    inner: int
    layers: int
    queries: int
    keys: int
    heads: int
    norms: int
    gated: bool
    plain: int
    experts: int
    rotary: bool
    whole_norms: bool
    crossed: bool
    encoders: int
    stack: str
    depth: int
    scores: int
    lora_blocks: bool

    @classmethod
    def of(
        cls,
        outline: Model,
        config: ModelConfig,
        settings: Settings,
        largest: Pass = Pass(0, chunked=False),
    ) -> "Shape":
        """The sizes of a model; the arguments are those of `of_layers`."""
        text = config.get_text_config()
        hidden, heads = text.hidden_size, text.num_attention_heads
        width = getattr(text, "head_dim", None) or getattr(text, "d_kv", None) or hidden // heads
        keys = width * (getattr(text, "num_key_value_heads", None) or heads)
        names = {name.rpartition(".")[2] for name, _ in outline.named_modules()}
        # Weights of experts are no modules.
        gates = {name.rpartition(".")[2] for name, _ in outline.named_parameters()}
        crossed = bool(getattr(text, "is_encoder_decoder", False))
        norms = (3 if crossed else 2) * hidden
        layers = len(recompute.layers_of(outline)) or layers_of(config)
        encoders = int(text.num_hidden_layers) if crossed else 0
        return cls(
            hidden=hidden,
            inner=inner_width(config),
            layers=layers,
            queries=width * heads,
            keys=keys,
            heads=heads,
            norms=norms + (width * heads + keys if "q_norm" in names else 0),
            gated=bool((names | gates) & {"gate_proj", "gate_up_proj", "wi_1"}),
            plain=_plain(text, crossed=crossed),
            experts=getattr(text, "num_experts_per_tok", None) or 0,
            rotary="rotary_emb" in names,
            whole_norms=any(isinstance(each, nn.LayerNorm) for each in outline.modules()),
            crossed=crossed,
            encoders=encoders,
            stack="decoder." if crossed else "",
            depth=max(1, layers - encoders),
            scores=_scores(outline, config, settings, heads, flat=largest.flat),
            lora_blocks=largest.lora_blocks,
        )

    def of_the_encoder(self) -> "Shape":
        """The sizes of an encoder's layers, where these are of its decoder's."""
        norms = self.norms - self.hidden
        return replace(self, crossed=False, norms=norms, stack="encoder.", depth=self.encoders)


def inner_width(config: ModelConfig) -> int:
    """Width of the feed-forward blocks that a token goes through."""
    text = config.get_text_config()
    # Each family has its own name for it, or none for 4 times the hidden size.
    widths = (getattr(text, name, None) for name in ("intermediate_size", "n_inner", "d_ff"))
    inner = next((width for width in widths if width), 4 * text.hidden_size)
    experts = getattr(text, "num_experts_per_tok", None) or 0
    return int(max(inner, experts * (getattr(text, "moe_intermediate_size", None) or inner)))


def layers_of(config: ModelConfig) -> int:
    """Layers, of encoder and decoder together."""
    text = config.get_text_config()
    return int(text.num_hidden_layers + (getattr(text, "num_decoder_layers", None) or 0))


def _scores(
    outline: Model, config: ModelConfig, settings: Settings, heads: int, *, flat: bool
) -> int:
    text = config.get_text_config()
    names = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate")
    dropout = any(getattr(text, name, 0) for name in names)
    # With dropout, PyTorch has no kernel on the CPU that throws them away.
    kept = dropout and settings.device == "cpu"
    plain = not flat and getattr(outline.config, "_attn_implementation", None) == "eager"
    return heads * settings.max_length if kept or plain else 0


def _plain(text: ModelConfig, *, crossed: bool) -> int:
    """Tensors as wide as a feed-forward block without a gate."""
    names = ("hidden_act", "activation_function", "dense_act_fn")
    activation = next((found for name in names if (found := getattr(text, name, None))), None)
    if activation not in _WHOLE:
        return _STEPS
    return WITH_DROPOUT if crossed else _PLAIN
