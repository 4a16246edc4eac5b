"""Forwards of adapted layers: one linear layer, queries with keys and values, and the gated MLP.

Each asks `patching.lora` whether this call is one for our blocks, and runs what would have run without
them if not. Bound to instances by `patching.model`.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from finetune_kernels.ops.lora_linear import lora_linear, lora_linears
from finetune_kernels.ops.lora_mlp import lora_mlp
from finetune_kernels.ops.projection import Projection
from finetune_kernels.patching import Foreign
from finetune_kernels.patching.lora import is_adapted, projection, why_not

QKV = ("q_proj", "k_proj", "v_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


def linear_forward(module: Foreign, x: Tensor, *arguments: Foreign, **options: Foreign) -> Tensor:
    """One adapted layer."""
    layer = None if arguments or options else projection(module, x)
    if layer is None:
        y: Tensor = type(module).forward(module, x, *arguments, **options)
        return y
    return lora_linear(x, layer)


def mlp_forward(activation: str, otherwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A gated MLP with adapters in it; `otherwise` is its forward without our block."""

    def forward(module: Foreign, x: Tensor) -> Tensor:
        layers = _layers(module, MLP, x)
        if layers is None:
            return otherwise(module, x)
        gate, up, down = layers
        return lora_mlp(x, gate, up, down, activation)

    return forward


def attention_forward(otherwise: Callable[..., Foreign]) -> Callable[..., Foreign]:
    """An attention layer whose three projections of the hidden states are one block.

    `otherwise` is its forward, ours for RoPE or the library's. It is called with a stand-in for the
    module, whose projections have been computed; all else is the module's.
    """

    def forward(
        module: Foreign, hidden_states: Tensor, *arguments: Foreign, **options: Foreign
    ) -> Foreign:
        layers = _layers(module, QKV, hidden_states)
        if layers is None:
            return otherwise(module, hidden_states, *arguments, **options)
        products = dict(zip(QKV, lora_linears(hidden_states, layers), strict=True))
        return otherwise(_Projected(module, products), hidden_states, *arguments, **options)

    return forward


class _Projected:
    """An attention layer, but its projections give what was computed before, once."""

    def __init__(self, module: nn.Module, products: dict[str, Tensor]) -> None:
        self._module, self._products = module, products

    def q_proj(self, _: Tensor) -> Tensor:
        return self._products.pop("q_proj")

    def k_proj(self, _: Tensor) -> Tensor:
        return self._products.pop("k_proj")

    def v_proj(self, _: Tensor) -> Tensor:
        return self._products.pop("v_proj")

    def __getattr__(self, name: str) -> Foreign:
        return getattr(self._module, name)


def fits(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether these submodules are linear layers for our blocks, and one at least is adapted."""
    adapted = [m for m in (getattr(module, name, module) for name in names) if is_adapted(m)]
    return bool(adapted) and all(why_not(m) is None for m in adapted)


def _layers(module: nn.Module, names: Sequence[str], x: Tensor) -> list[Projection] | None:
    layers = []
    for name in names:
        layer = projection(getattr(module, name), x)
        if layer is None:
            return None
        layers.append(layer)
    return layers if any(layer.adapter for layer in layers) else None
