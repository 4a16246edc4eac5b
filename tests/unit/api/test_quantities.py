"""Quantities are compared by what they stand for."""

import pytest

from finetune_api.quantities import amount, smaller


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("2", 2), ("250m", 0.25), ("1.5", 1.5), ("3k", 3000), ("4Ki", 4096), ("1Mi", 1_048_576),
        ("2G", 2_000_000_000), ("1Gi", 1_073_741_824), ("1T", 10**12), ("1Pi", 2**50),
    ],
)  # fmt: skip
def test_an_amount_is_what_kubernetes_takes_it_for(quantity: str, value: float) -> None:
    assert float(amount(quantity)) == value


def test_the_smaller_one_stays_as_it_was_written() -> None:
    assert smaller("1G", "1Gi") == "1G"
    assert smaller("1500m", "1") == "1"
    assert smaller("1024Mi", "1Gi") == "1024Mi"
