"""The language model head in chunks of rows: what the two fused linear losses share.

`Head` projects rows to logits chunk by chunk into one buffer, and takes gradients of logits back to the
rows and the weight. Its work is matrix products, left to cuBLAS or MKL. Called by `linear_cross_entropy`
and `linear_log_probs`; knows nothing of losses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from finetune_kernels.launch import same_device, sum_dtype

# A chunk of rows is large enough for full speed of the products, and its logits small beside a model.
_GPU_ROWS = 2048
# On a CPU the weight is read anew for every chunk, which costs more than logits outside the caches;
# beyond 32 MiB of logits nothing is gained any more.
_CPU_ELEMENTS = 2**23
_CPU_FEWEST_ROWS = 64
# Words of the weight that are turned to or from float32 at a time.
_WORDS = 4096


def rows_of_a_chunk(vocabulary: int, *, on_gpu: bool) -> int:
    """How many rows have their logits at one time."""
    return _GPU_ROWS if on_gpu else max(_CPU_ELEMENTS // vocabulary, _CPU_FEWEST_ROWS)


@dataclass(frozen=True)
class Head:
    """Rows that count, and the weight that turns them into logits.

    Attributes:
        rows: `(K, H)`, the hidden states of the positions that count.
        labels: `(K,)`.
        kept: `(K,)`, their positions among all N; None when all of them count.
        weight: `(V, H)`.
        bias: `(V,)` or None.
    """

    rows: Tensor
    labels: Tensor
    kept: Tensor | None
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(
        cls,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        ignore_index: int,
    ) -> "Head":
        """Gather the rows whose label counts; one wait for the device."""
        kept = (labels != ignore_index).nonzero().squeeze(1)
        if kept.numel() == labels.numel():
            return cls(hidden.contiguous(), labels, None, weight, bias)
        return cls(hidden.index_select(0, kept), labels[kept], kept, weight, bias)

    def chunks(self, rows: int) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the rows with their logits, which the caller may write over until the next one."""
        count = self.rows.shape[0]
        size = min(rows or self._fitting_rows(), max(count, 1))
        buffer = self.rows.new_empty(size, self.weight.shape[0])
        for start in range(0, count, size):
            chunk = slice(start, min(start + size, count))
            logits = buffer[: chunk.stop - start]
            _project(self.rows[chunk], self.weight, self.bias, logits)
            yield chunk, logits

    def _fitting_rows(self) -> int:
        return rows_of_a_chunk(self.weight.shape[0], on_gpu=self.rows.is_cuda)

    def spread(self, rows: Tensor, count: int) -> Tensor:
        """Values of the rows that count as values of all `count` positions, 0 for the others."""
        if self.kept is None:
            return rows
        return rows.new_zeros(count, *rows.shape[1:]).index_copy_(0, self.kept, rows)


class Gradients:
    """Gradients of a head, summed over chunks in float32 and given out in `dtype`.

    `wanted` says which of hidden, weight and bias have one.
    Gradients that are multiplied once more are given out in float32, or they would be rounded twice:
    see `scaled`.
    """

    def __init__(self, head: Head, dtype: torch.dtype, wanted: Sequence[bool]) -> None:
        hidden, weight, bias = wanted
        wide = sum_dtype(dtype)
        self._head, self._dtype = head, dtype
        self.rows = torch.empty_like(head.rows, dtype=dtype) if hidden else None
        self.weight = torch.zeros_like(head.weight, dtype=wide) if weight else None
        self.bias = head.weight.new_zeros(head.weight.shape[0], dtype=wide) if bias else None

    def add(self, chunk: slice, gradient: Tensor) -> None:
        """Account for the gradient of one chunk's logits."""
        if self.rows is not None:
            self.rows[chunk] = wide_product(gradient, self._head.weight)
        if self.weight is not None:
            _add_product(self.weight, gradient.t(), self._head.rows[chunk])
        if self.bias is not None:
            self.bias += gradient.sum(0, dtype=self.bias.dtype)

    def outputs(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of hidden `(count, H)`, weight and bias; empty for those that were not asked for."""
        rows = self.rows
        return (
            self._nothing() if rows is None else self._head.spread(rows, count),
            self._nothing() if self.weight is None else self.weight.to(self._dtype),
            self._nothing() if self.bias is None else self.bias.to(self._dtype),
        )

    def _nothing(self) -> Tensor:
        # Outputs of an operation may not be one tensor.
        return self._head.rows.new_empty(0, dtype=self._dtype)


def scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`factor * gradient`, rounded to `dtype` once; only a part of it is ever there in float32."""
    result = torch.empty_like(gradient, dtype=dtype)
    for block in _blocks(gradient.shape[0]):
        result[block] = factor * gradient[block]
    return result


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right`, its sums and the result in float32 (float64 for float64)."""
    wide = sum_dtype(left.dtype)
    if left.dtype == wide:
        return left @ right
    if left.is_cuda:
        return _gpu_product(left, right)
    # The whole of `right`, a head's weight, would be too large a copy.
    product = left.new_zeros(left.shape[0], right.shape[1], dtype=wide)
    for block in _blocks(right.shape[0]):
        product.addmm_(left[:, block].to(wide), right[block].to(wide))
    return product


def _gpu_product(left: Tensor, right: Tensor) -> Tensor:
    wide = sum_dtype(left.dtype)
    if hasattr(torch.ops.aten.mm, "dtype"):
        return torch.mm(left, right, out_dtype=wide)
    # PyTorch before 2.8 rounds the product; the sum of chunks stays float32.
    return torch.mm(left, right).to(wide)


def _project(rows: Tensor, weight: Tensor, bias: Tensor | None, logits: Tensor) -> None:
    """Write the logits; the bias is added before they are rounded."""
    if _in_software(rows):
        wide = rows.float()
        for block in _blocks(weight.shape[0]):
            shift = None if bias is None else bias[block].float()
            logits[:, block] = functional.linear(wide, weight[block].float(), shift)
    elif bias is None:
        torch.mm(rows, weight.t(), out=logits)
    else:
        torch.addmm(bias, rows, weight.t(), out=logits)


def _in_software(x: Tensor) -> bool:
    """Whether this is a CPU without products of 16 bits: they take ten times float32's time or more."""
    if x.is_cuda or x.dtype.itemsize > 2:
        return False
    kind = "bf16" if x.dtype == torch.bfloat16 else "fp16"
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", None)
    return supported is None or not supported()


def _blocks(words: int) -> Iterator[slice]:
    return (slice(first, first + _WORDS) for first in range(0, words, _WORDS))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left @ right`, with the sum over chunks in the dtype of `total`."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif left.is_cuda:
        total += _gpu_product(left, right)
    else:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> None:
    """Refuse what does not fit together.

    Raises:
        ValueError: Shapes, dtypes or devices differ from what the fused losses say.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be (N, H) and weight (V, H), not {tuple(hidden.shape)}, {tuple(weight.shape)}"
        )
    if labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels must be ({hidden.shape[0]},), not {tuple(labels.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},), not {tuple(bias.shape)}")
    if hidden.dtype != weight.dtype or (bias is not None and bias.dtype != weight.dtype):
        raise ValueError(f"hidden is {hidden.dtype} and the head {weight.dtype}; cast one of them")
    same_device(hidden=hidden, weight=weight, labels=labels)


def empty_gradients(
    hidden: Tensor, weight: Tensor, dtype: torch.dtype, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The shapes and layouts of `Gradients.outputs`, for the operations' fake versions."""
    nothing = hidden.new_empty(0, dtype=dtype)
    of_rows, of_weight, of_bias = wanted
    return (
        hidden.new_empty(hidden.shape, dtype=dtype) if of_rows else nothing,
        torch.empty_like(weight, dtype=dtype) if of_weight else torch.empty_like(nothing),
        weight.new_empty(weight.shape[:1], dtype=dtype) if of_bias else torch.empty_like(nothing),
    )
