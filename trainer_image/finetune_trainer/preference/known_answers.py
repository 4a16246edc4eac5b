"""What each loss is while policy and reference are the same: both log-ratios r of a pair are zero.

Asked by `recipes.dpo` at the first step. With β the strength and ε the label smoothing, from the
formulas of the papers that are named in `docs/guides/preference.md`; ln σ(0) = -ln 2.
"""

from collections.abc import Callable
from math import log

LN2 = log(2)

Constant = Callable[[float, float], float]

# Our name of a loss -> its value as a function of β and ε.
AT_REFERENCE: dict[str, Constant] = {
    # -ln σ(β·0)
    "Sigmoid": lambda beta, smoothing: LN2,
    # The same of log-ratios a token.
    "SigmoidNorm": lambda beta, smoothing: LN2,
    # max(0, 1 - β·0)
    "Hinge": lambda beta, smoothing: 1.0,
    # (0 - 1/(2β))²
    "IPO": lambda beta, smoothing: 1 / (4 * beta**2),
    # KL of (½, ½) from (1 - ε, ε)
    "ExoPair": lambda beta, smoothing: -LN2 - log(smoothing * (1 - smoothing)) / 2,
    # -ln σ(0) - ½ ln σ(0) - ½ ln σ(0)
    "NCAPair": lambda beta, smoothing: 2 * LN2,
    # ((1 - ε) ln 2 - ε ln 2) / (1 - 2ε)
    "Robust": lambda beta, smoothing: LN2,
    # -ln σ(0) - ln σ(-0)
    "BCOPair": lambda beta, smoothing: 2 * LN2,
    # (0 - 1/(2β))² + (0 + 1/(2β))²
    "SPPOHard": lambda beta, smoothing: 1 / (2 * beta**2),
    # Sorted, they are still equal: (1 - ε) ln 2 + ε ln 2
    "AOT": lambda beta, smoothing: LN2,
    "AOTUnpaired": lambda beta, smoothing: LN2,
    # (1 - σ(0)) + σ(0)
    "APOZero": lambda beta, smoothing: 1.0,
    # σ(0) + (1 - σ(0))
    "APODown": lambda beta, smoothing: 1.0,
    # Half logistic and half exponential: ½ ln 2 + ½ e⁰
    "DiscoPOP": lambda beta, smoothing: (LN2 + 1) / 2,
}
