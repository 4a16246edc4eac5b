"""Numbers in prose, exactly and within bounds: the last one of an answer.

Used by `functions.NumericAnswer`. Values are fractions, so that 1/3 is 1/3; numbers with absurd
lengths or exponents, whose exact value would fill the memory, are not numbers here.
"""

import re
from fractions import Fraction

# The result stands at the end; a reward needs to read no more.
_TAIL = 4096
_MAX_DIGITS = 64
_MAX_EXPONENT = 64

# Linear: no part can give back what it took.
_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w)])[-+\u2212])?\$?
    (?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?
    (?P<decimals>(?<=\d)\.\d+|(?<!\d)\.\d+)?
    (?P<exponent>(?<=\d)[eE][-+]?\d+)?
    (?:(?<=\d)\s?/\s?(?P<divisor>\d+))?
    """,
    re.VERBOSE | re.ASCII,
)


def last_number(text: str) -> Fraction | None:
    """The last number in a text, or None.

    Reads signs, thousands with commas, decimals, exponents and fractions.

    >>> last_number("so 3 apples cost $1,250.50."), last_number("about 3/4"), last_number("none")
    (Fraction(2501, 2), Fraction(3, 4), None)
    """
    found = None
    for match in _NUMBER.finditer(text[-_TAIL:]):
        value = _value(match)
        found = value if value is not None else found
    return found


def _value(match: re.Match[str]) -> Fraction | None:
    whole, decimals = match["whole"] or "", match["decimals"] or ""
    exponent, divisor = match["exponent"] or "", match["divisor"]
    digits = whole.replace(",", "") + decimals
    if not digits or len(digits) > _MAX_DIGITS or len(divisor or "") > _MAX_DIGITS:
        return None
    if exponent and (len(exponent) > 4 or abs(int(exponent[1:])) > _MAX_EXPONENT):
        return None
    value = Fraction(f"0{digits}{exponent}")
    if divisor is not None:
        if int(divisor) == 0:
            return None
        value /= int(divisor)
    return -value if match["sign"] in ("-", "\u2212") else value
