"""Kubernetes quantities as numbers. Called by the operator and the trainer."""

from decimal import Decimal

_UNITS = {
    "m": Decimal("0.001"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "P": Decimal(10**15),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
}  # fmt: skip


def amount(quantity: str) -> Decimal:
    """The number that a quantity stands for.

    >>> amount("1500m")
    Decimal('1.500')
    """
    digits = quantity.rstrip("".join({letter for unit in _UNITS for letter in unit}))
    return Decimal(digits) * _UNITS.get(quantity[len(digits) :], Decimal(1))


def smaller(one: str, other: str) -> str:
    """The smaller of two quantities, as it was written."""
    return one if amount(one) <= amount(other) else other
