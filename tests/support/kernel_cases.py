"""Each operation of `finetune_kernels.ops` as a problem: inputs, ours, and the same in PyTorch.

One table for the tests on a GPU, for the numerics table and for the benchmark of operations. It needs
PyTorch and our kernels, nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional

from finetune_kernels import ops
from finetune_kernels.ops import Adapter, Documents, Projection
from finetune_kernels.ops.add_rms_norm import add_rms_norm_reference
from finetune_kernels.ops.attention import attention_reference
from finetune_kernels.ops.cross_entropy import Terms, cross_entropy_reference
from finetune_kernels.ops.glu import gated_reference
from finetune_kernels.ops.layer_norm import layer_norm_reference
from finetune_kernels.ops.linear_log_probs import linear_log_probs_reference
from finetune_kernels.ops.lora_linear import lora_linears_reference
from finetune_kernels.ops.lora_mlp import lora_mlp_reference
from finetune_kernels.ops.nf4 import dequantize_4bit_reference
from finetune_kernels.ops.rms_norm import rms_norm_reference
from finetune_kernels.ops.rope import rope_reference
from support.kernel_truth import Operation

SCALING = 0.75


@dataclass(frozen=True)
class Sizes:
    """How large a problem is.

    Attributes:
        rows: Tokens, all in one batch.
        width: Of the hidden states.
        inner: Of the MLP.
        vocabulary: Words of the head.
        heads: Of queries.
        groups: Of keys and values.
        head: Columns of a head; even.
        rank: Of adapters.
        documents: Spans that the tokens are cut into for attention.
    """

    rows: int
    width: int
    inner: int
    vocabulary: int
    heads: int
    groups: int
    head: int
    rank: int
    documents: int = 2


SMALL = Sizes(24, 64, 96, 150, 4, 2, 16, 4)


@dataclass(frozen=True)
class Problem:
    """Inputs and two ways to the same result.

    Attributes:
        inputs: Floating ones have gradients.
        ours: Our operation.
        stock: Eager PyTorch; with float64 inputs, the truth.
        results: Names of the outputs and of the gradients, as `kernel_truth.run` gives them.
    """

    inputs: list[Tensor]
    ours: Operation
    stock: Operation
    results: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where and in which dtype a problem is made; the same numbers on every device."""

    dtype: torch.dtype
    device: str = "cpu"

    def normal(self, *shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
        """Normal numbers, rounded once."""
        # Made on the device where they are many: a CPU would need minutes for gigabytes.
        device = self.device if torch.Size(shape).numel() > 2**24 else "cpu"
        generator = torch.Generator(device).manual_seed(seed + 17 * len(shape))
        made = torch.randn(shape, generator=generator, device=device, dtype=self._drawn(shape))
        return (made * scale).to(self.device, self.dtype)

    def _drawn(self, shape: tuple[int, ...]) -> torch.dtype:
        return self.dtype if torch.Size(shape).numel() > 2**24 else torch.float32

    def integers(self, limit: int, *shape: int, seed: int = 0) -> Tensor:
        """Numbers below the limit."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(limit, shape, generator=generator).to(self.device)


Case = Callable[[Sizes, Place], Problem]


def rms_norm(sizes: Sizes, place: Place) -> Problem:
    inputs = [place.normal(sizes.rows, sizes.width), 1 + place.normal(sizes.width) / 8]
    return Problem(inputs, ops.rms_norm, rms_norm_reference, ("y", "dx", "dw"))


def add_rms_norm(sizes: Sizes, place: Place) -> Problem:
    rows = [place.normal(sizes.rows, sizes.width, seed=seed) for seed in range(2)]
    inputs = [*rows, 1 + place.normal(sizes.width) / 8]
    names = ("y", "sum", "dx", "dresidual", "dw")
    return Problem(inputs, ops.add_rms_norm, add_rms_norm_reference, names)


def layer_norm(sizes: Sizes, place: Place) -> Problem:
    scale, shift = (place.normal(sizes.width, seed=seed) / 8 for seed in range(2))
    inputs = [place.normal(sizes.rows, sizes.width), 1 + scale, shift]
    return Problem(inputs, ops.layer_norm, layer_norm_reference, ("y", "dx", "dw", "db"))


def swiglu(sizes: Sizes, place: Place) -> Problem:
    return Problem(_gate_and_up(sizes, place), ops.swiglu, _gated("silu"), ("h", "dgate", "dup"))


def geglu(sizes: Sizes, place: Place) -> Problem:
    return Problem(
        _gate_and_up(sizes, place), ops.geglu, _gated("gelu_tanh"), ("h", "dgate", "dup")
    )


def _gate_and_up(sizes: Sizes, place: Place) -> list[Tensor]:
    return [place.normal(sizes.rows, sizes.inner, seed=seed) for seed in range(2)]


def _gated(activation: str) -> Operation:
    return lambda gate, up: gated_reference(gate, up, activation)


def rope(sizes: Sizes, place: Place) -> Problem:
    cos, sin = rotations(sizes, place)
    return Problem(
        _heads(sizes, place)[:2],
        lambda q, k: ops.rope(q, k, cos, sin),
        lambda q, k: rope_reference(q, k, cos, sin),
        ("q", "k", "dq", "dk"),
    )


def rope_(sizes: Sizes, place: Place) -> Problem:
    cos, sin = rotations(sizes, place)

    @torch.no_grad()
    def ours(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        q, k = q.clone(), k.clone()
        ops.rope_(q, k, cos, sin)
        return q, k

    stock = torch.no_grad()(lambda q, k: rope_reference(q, k, cos, sin))
    return Problem(_heads(sizes, place)[:2], ours, stock, ("q", "k"))


def rotations(sizes: Sizes, place: Place) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all positions, `(1, rows, head)`, rounded to the dtype."""
    half = torch.arange(sizes.head // 2, dtype=torch.float64) * 2 / sizes.head
    angles = torch.arange(sizes.rows, dtype=torch.float64)[:, None] * 10000.0**-half
    angles = torch.cat((angles, angles), -1)[None]
    cos, sin = (f(angles).to(place.device, place.dtype) for f in (torch.cos, torch.sin))
    return cos, sin


def _heads(sizes: Sizes, place: Place) -> list[Tensor]:
    """Queries, keys and values as models make them: (1, S, H, D) turned to (1, H, S, D)."""
    counts = (sizes.heads, sizes.groups, sizes.groups)
    return [
        place.normal(1, sizes.rows, count, sizes.head, seed=seed).transpose(1, 2)
        for seed, count in enumerate(counts)
    ]


def attention(sizes: Sizes, place: Place) -> Problem:
    spans = documents(sizes, place)
    return Problem(
        [t[0].transpose(0, 1) for t in _heads(sizes, place)],
        lambda q, k, v: ops.attention(q, k, v, spans),
        lambda q, k, v: attention_reference(q, k, v, spans),
        ("o", "dq", "dk", "dv"),
    )


def documents(sizes: Sizes, place: Place) -> Documents:
    """Spans of equal length, the last one longer where the rows do not divide."""
    length = sizes.rows // sizes.documents
    ends = [length * (1 + number) for number in range(sizes.documents)]
    cumulative = torch.tensor([0, *ends[:-1], sizes.rows], device=place.device)
    return Documents.packed(cumulative, sizes.rows - length * (sizes.documents - 1))


def cross_entropy(sizes: Sizes, place: Place) -> Problem:
    labels = labels_of(sizes, place)
    return Problem(
        [place.normal(sizes.rows, sizes.vocabulary, scale=3)],
        lambda logits: ops.cross_entropy(logits, labels, reduction="none"),
        lambda logits: cross_entropy_reference(logits, labels, Terms()),
        ("loss", "dlogits"),
    )


def linear_cross_entropy(sizes: Sizes, place: Place) -> Problem:
    labels = labels_of(sizes, place)

    def stock(hidden: Tensor, weight: Tensor) -> Tensor:
        return cross_entropy_reference(functional.linear(hidden, weight), labels, Terms()).sum()

    return Problem(
        _head(sizes, place),
        lambda hidden, weight: ops.linear_cross_entropy(hidden, weight, labels, reduction="sum"),
        stock,
        ("loss", "dx", "dw"),
    )


def linear_log_probs(sizes: Sizes, place: Place) -> Problem:
    labels = labels_of(sizes, place)
    return Problem(
        _head(sizes, place),
        lambda hidden, weight: ops.linear_log_probs(hidden, weight, labels),
        lambda hidden, weight: linear_log_probs_reference(hidden, weight, labels),
        ("logp", "dx", "dw"),
    )


def labels_of(sizes: Sizes, place: Place) -> Tensor:
    """A word for each row; every third is masked, as prompts are."""
    labels = place.integers(sizes.vocabulary, sizes.rows)
    labels[::3] = -100
    return labels


def _head(sizes: Sizes, place: Place) -> list[Tensor]:
    weight = place.normal(sizes.vocabulary, sizes.width, scale=sizes.width**-0.5)
    return [place.normal(sizes.rows, sizes.width), weight]


def lora_linear(sizes: Sizes, place: Place) -> Problem:
    shapes = [(sizes.width, sizes.width)]
    return _adapted(
        *(shapes, sizes, place),
        lambda x, layers: ops.lora_linear(x, layers[0]),
        lambda x, layers: lora_linears_reference(x, layers)[0],
        ("y",),
    )


def lora_linears(sizes: Sizes, place: Place) -> Problem:
    counts = (sizes.heads, sizes.groups, sizes.groups)
    shapes = [(count * sizes.head, sizes.width) for count in counts]
    return _adapted(shapes, sizes, place, ops.lora_linears, lora_linears_reference, ("q", "k", "v"))


def lora_mlp(sizes: Sizes, place: Place) -> Problem:
    wide, narrow = (sizes.inner, sizes.width), (sizes.width, sizes.inner)
    return _adapted(
        *([wide, wide, narrow], sizes, place),
        lambda x, layers: ops.lora_mlp(x, *layers),
        lambda x, layers: lora_mlp_reference(x, *layers),
        ("y",),
    )


def _adapted(
    shapes: list[tuple[int, int]],
    sizes: Sizes,
    place: Place,
    ours: Callable[[Tensor, list[Projection]], Tensor | tuple[Tensor, ...]],
    stock: Callable[[Tensor, list[Projection]], Tensor | tuple[Tensor, ...]],
    outputs: tuple[str, ...],
) -> Problem:
    """Frozen layers of these shapes; the inputs are x, and a and b of each layer."""
    inputs, weights, names = [place.normal(sizes.rows, sizes.width)], [], ["dx"]
    for number, (out, into) in enumerate(shapes):
        weights.append(place.normal(out, into, seed=number, scale=into**-0.5))
        inputs.append(place.normal(sizes.rank, into, seed=10 + number, scale=into**-0.5))
        inputs.append(place.normal(out, sizes.rank, seed=20 + number, scale=sizes.rank**-0.5))
        names += [f"da{number}", f"db{number}"]

    def layers(x: Tensor, pairs: tuple[Tensor, ...]) -> list[Projection]:
        return [
            Projection(weight.to(x.dtype), None, Adapter(a, b, SCALING))
            for weight, a, b in zip(weights, pairs[::2], pairs[1::2], strict=True)
        ]

    return Problem(
        inputs,
        lambda x, *pairs: ours(x, layers(x, pairs)),
        lambda x, *pairs: stock(x, layers(x, pairs)),
        (*outputs, *names),
    )


def dequantize_4bit(sizes: Sizes, place: Place) -> Problem:
    packed, state = four_bits(sizes, place)
    wide = SimpleNamespace(**vars(state))
    wide.code, wide.offset = state.code.double(), state.offset.double()
    wide.state2 = SimpleNamespace(**vars(state.state2))
    wide.state2.code, wide.state2.absmax = state.state2.code.double(), state.state2.absmax.double()

    @torch.no_grad()
    def stock(like: Tensor) -> Tensor:
        exact = like.dtype == torch.float64
        return dequantize_4bit_reference(packed, wide if exact else state, like.dtype)

    # The one input only says the dtype of the result.
    ours = torch.no_grad()(lambda like: ops.dequantize_4bit(packed, state, like.dtype))
    return Problem([place.normal(1)], ours, stock, ("w",))


def four_bits(sizes: Sizes, place: Place) -> tuple[Tensor, SimpleNamespace]:
    """Random bytes of a doubly quantised weight (inner, width), and a state as bitsandbytes keeps it."""
    elements = sizes.inner * sizes.width
    blocks = -(-elements // 64)
    wide = Place(torch.float32, place.device)
    nested = SimpleNamespace(
        code=torch.linspace(-1, 1, 256, device=place.device),
        absmax=wide.normal(-(-blocks // 256)).abs() + 0.1,
        blocksize=256,
    )
    state = SimpleNamespace(
        absmax=place.integers(256, blocks).to(torch.uint8),
        code=torch.linspace(-1, 1, 16, device=place.device).pow(3),
        blocksize=64,
        shape=torch.Size((sizes.inner, sizes.width)),
        dtype=place.dtype,
        offset=torch.tensor(1.5, device=place.device),
        state2=nested,
    )
    return place.integers(256, -(-elements // 2), 1).to(torch.uint8), state


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        *(rms_norm, add_rms_norm, layer_norm, swiglu, geglu, rope, rope_, attention),
        *(cross_entropy, linear_cross_entropy, linear_log_probs),
        *(lora_linear, lora_linears, lora_mlp, dequantize_4bit),
    )
}
