"""The least work of each operation: bytes that must go through memory, or products to compute.

Inputs are read once and outputs written once; nothing is read that a masked row does not need. A share of
the chip's limit follows from it, so an operation that does more than it must has a smaller share.
"""

from collections.abc import Callable
from dataclasses import dataclass

from support.kernel_cases import Sizes

ITEM = 2  # bytes of a bfloat16


@dataclass(frozen=True)
class Work:
    """Of the forward pass, and of forward and backward together.

    Attributes:
        unit: `bytes` or `flops`: what limits the operation.
        forward: Without gradients.
        both: With gradients; 0 where there are none.
    """

    unit: str
    forward: float
    both: float


def _trips(forward: float, backward: float) -> Callable[[float], Work]:
    return lambda elements: Work(
        "bytes", forward * elements * ITEM, (forward + backward) * elements * ITEM
    )


def _counted(sizes: Sizes) -> int:
    """Rows that are not masked."""
    return sizes.rows - len(range(0, sizes.rows, 3))


def _head(sizes: Sizes) -> Work:
    product = 2.0 * _counted(sizes) * sizes.width * sizes.vocabulary
    return Work("flops", product, 3 * product)


def _cross_entropy(sizes: Sizes) -> Work:
    read, all_of_them = (n * sizes.vocabulary * ITEM for n in (_counted(sizes), sizes.rows))
    return Work("bytes", read, 2 * read + all_of_them)


def _attention(sizes: Sizes) -> Work:
    length = sizes.rows / sizes.documents
    forward = 2 * sizes.heads * sizes.head * length**2 * sizes.documents
    return Work("flops", forward, 3.5 * forward)


def _adapted(sizes: Sizes, shapes: list[tuple[int, int]]) -> Work:
    frozen = sum(2.0 * sizes.rows * out * into for out, into in shapes)
    adapters = sum(2.0 * sizes.rows * sizes.rank * (out + into) for out, into in shapes)
    return Work("flops", frozen + adapters, 2 * frozen + 3 * adapters)


def work(name: str, sizes: Sizes) -> Work:
    """What the operation has to do."""
    hidden, inner = sizes.rows * sizes.width, sizes.rows * sizes.inner
    heads = [count * sizes.head for count in (sizes.heads, sizes.groups, sizes.groups)]
    weights = sizes.inner * sizes.width
    wide, narrow = (sizes.inner, sizes.width), (sizes.width, sizes.inner)
    table: dict[str, Callable[[], Work]] = {
        "rms_norm": lambda: _trips(2, 3)(hidden),
        "layer_norm": lambda: _trips(2, 3)(hidden),
        "add_rms_norm": lambda: _trips(4, 4)(hidden),
        "swiglu": lambda: _trips(3, 5)(inner),
        "geglu": lambda: _trips(3, 5)(inner),
        "rope": lambda: _trips(2, 2)(sizes.rows * (heads[0] + heads[1])),
        "cross_entropy": lambda: _cross_entropy(sizes),
        "linear_cross_entropy": lambda: _head(sizes),
        "linear_log_probs": lambda: _head(sizes),
        "attention": lambda: _attention(sizes),
        "lora_linear": lambda: _adapted(sizes, [(sizes.width, sizes.width)]),
        "lora_linears": lambda: _adapted(sizes, [(out, sizes.width) for out in heads]),
        "lora_mlp": lambda: _adapted(sizes, [wide, wide, narrow]),
        "dequantize_4bit": lambda: Work("bytes", weights * (ITEM + 0.5 + 1 / 64), 0),
    }
    return table[name]()
