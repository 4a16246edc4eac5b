"""Functions of numbers that kernels share: tanh, and the gates' activations with their slopes.

Written with `exp` and `erf` alone: `tanh` has moved between Triton's libraries from version to version.
Called inside kernels of `ops`.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Hyperbolic tangent to two units in the last place of float32, by its series near zero."""
    square = x * x
    series = 62.0 / 2835.0 - square * (1382.0 / 155925.0 - square * (21844.0 / 6081075.0))
    series = 2.0 / 15.0 + square * (-17.0 / 315.0 + square * series)
    series = x + x * square * (-1.0 / 3.0 + square * series)
    decay = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - decay) / (1.0 + decay)
    return tl.where(square < 0.0625, series, tl.where(x < 0.0, -far, far))


@triton.jit
def activate(x, activation: tl.constexpr):
    """(f(x), f'(x)) for f one of `silu`, `gelu` (exact, by erf) and `gelu_tanh`."""
    if activation == "silu":
        sigmoid = 1.0 / (1.0 + tl.exp(-x))
        value = x * sigmoid
        # Not 1 - sigmoid, which has few digits left where it is multiplied with a large x.
        slope = sigmoid * (1.0 + x / (1.0 + tl.exp(x)))
    elif activation == "gelu":
        share = 0.5 + 0.5 * tl.math.erf(x * 0.7071067811865476)
        value = x * share
        slope = share + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    else:
        # (1 + tanh(u)) / 2 = sigmoid(2 u), which keeps its digits where tanh nears -1.
        twice = 1.5957691216057308 * (x + 0.044715 * x * x * x)
        share = 1.0 / (1.0 + tl.exp(-twice))
        value = x * share
        rest = 1.0 / (1.0 + tl.exp(twice))
        slope = share + x * share * rest * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    return value, slope
