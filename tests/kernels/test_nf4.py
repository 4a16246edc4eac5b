"""4-bit weights against bitsandbytes, which runs on CPUs: equal to the bit."""

import bitsandbytes.functional as stock
import pytest
import torch

from finetune_kernels.ops.nf4 import dequantize_4bit, dequantize_4bit_reference
from support.kernel_truth import DTYPES


def quantised(shape: tuple[int, ...], dtype: torch.dtype, **options) -> tuple:
    torch.manual_seed(0)
    return stock.quantize_4bit(torch.randn(shape).to(dtype), **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_equal_to_bitsandbytes(double, kind, dtype) -> None:
    # (66, 256) has more than one block of quantised scales; (5, 7) an odd number of elements.
    for shape, blocksize in (((66, 256), 64), ((33, 40), 128), ((5, 7), 64)):
        options = {"blocksize": blocksize, "compress_statistics": double, "quant_type": kind}
        packed, state = quantised(shape, dtype, **options)
        want = stock.dequantize_4bit(packed, state)
        assert torch.equal(dequantize_4bit(packed, state), want)
        assert torch.equal(dequantize_4bit_reference(packed, state), want)


def test_by_hand() -> None:
    packed, state = quantised((1, 64), torch.float32, quant_type="nf4", compress_statistics=False)
    data = packed.flatten()
    assert dequantize_4bit(packed, state)[0, 5] == state.code[int(data[2] & 15)] * state.absmax[0]
    assert dequantize_4bit(packed, state)[0, 4] == state.code[int(data[2] >> 4)] * state.absmax[0]


def test_other_storage_and_dtype() -> None:
    packed, state = quantised((8, 64), torch.float32, quant_storage=torch.bfloat16)
    want = stock.dequantize_4bit(packed, state).half()
    assert torch.equal(dequantize_4bit(packed, state, torch.float16), want)


@pytest.mark.parametrize("interpreted", [True, False])
def test_rows_of_a_wider_buffer(interpreted, monkeypatch) -> None:
    monkeypatch.setattr("finetune_kernels.ops.nf4.kernels_run_on", lambda x: interpreted)
    for columns in (96, 33):  # where they are odd, a byte belongs to two rows
        packed, state = quantised((7, columns), torch.bfloat16, quant_type="nf4")
        buffer = torch.full((8, 100), 7.0, dtype=torch.bfloat16)
        dequantize_4bit(packed, state, out=buffer[:7, :columns])
        assert torch.equal(buffer[:7, :columns], stock.dequantize_4bit(packed, state))
        assert bool((buffer[7] == 7).all())
        assert bool((buffer[:, columns:] == 7).all())


def test_registration_and_what_does_not_fit() -> None:
    packed, state = quantised((4, 64), torch.float32, compress_statistics=False)
    out = torch.empty(4, 64)
    arguments = (
        packed.flatten(),
        out.view(1, -1),
        state.absmax,
        state.code,
        None,
        None,
        None,
        64,
        1,
    )
    torch.library.opcheck(torch.ops.finetune.dequantize_4bit.default, arguments)
    with pytest.raises(ValueError, match="columns dense"):
        dequantize_4bit(packed, state, out=torch.empty(64, 4).t())
    with pytest.raises(ValueError, match="100 bytes are too few for 256"):
        dequantize_4bit(packed[:100], state)
