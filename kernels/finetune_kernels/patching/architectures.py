"""Which classes of transformers compute what an operation of ours computes.

One row a model family. A class is in the table when its forward was read and is tested against ours;
every other layer is left alone. Read by `patching.model`; docs/guides/kernels.md shows the table.
"""

from dataclasses import dataclass

from torch import nn

LIBRARY = "transformers."


@dataclass(frozen=True)
class Architecture:
    """The classes of one model family, by name; `None` where the family has no such layer.

    Attributes:
        rms_norm: y = w * x / rms(x), with the cast to the input's dtype before the weight.
        mlp: down(f(gate(x)) * up(x)).
        attention: Rotates all of q and k by halves, by a function `apply_rotary_pos_emb`.
        layer: x + attention(norm(x)), then s + mlp(norm(s)).
    """

    name: str
    rms_norm: str | None
    mlp: str | None
    attention: str | None
    layer: str | None


def _like_llama(name: str, prefix: str) -> Architecture:
    return Architecture(
        name, *(prefix + part for part in ("RMSNorm", "MLP", "Attention", "DecoderLayer"))
    )


ARCHITECTURES = (
    _like_llama("llama", "Llama"),
    _like_llama("mistral", "Mistral"),
    _like_llama("qwen2", "Qwen2"),
    _like_llama("qwen3", "Qwen3"),
    # Gemma's norm scales by 1 + w, in float32: another function.
    Architecture("gemma", None, "GemmaMLP", "GemmaAttention", None),
)

# Ends of class names of layers that have an operation of ours in some family: named when left alone.
FAMILIAR = ("RMSNorm", "MLP", "Attention")

GATES = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def is_a(module: nn.Module, layer: str) -> bool:
    """Whether `module` is of a class that the table has in the column `layer`."""
    names = {getattr(row, layer) for row in ARCHITECTURES}
    return _of_the_library(module) and type(module).__name__ in names


def is_familiar(module: nn.Module) -> bool:
    """Whether it has the name of a layer that other families have, though it is in no row."""
    return _of_the_library(module) and type(module).__name__.endswith(FAMILIAR)


def _of_the_library(module: nn.Module) -> bool:
    # Code that comes with a model may use the same names for other functions.
    return type(module).__module__.startswith(LIBRARY)
