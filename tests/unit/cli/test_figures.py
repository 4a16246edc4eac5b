"""Bars, sparklines, spans and sizes at their edges."""

import pytest

from kubectl_finetune.figures import bar, shorten, size, span, sparkline


@pytest.mark.parametrize(
    ("done", "total", "drawn"), [(0, 4, "░░░░"), (9, 4, "████"), (1, 0, "░░░░")]
)
def test_a_bar_stays_in_its_width(done: float, total: float, drawn: str) -> None:
    assert bar(done, total, 4) == drawn


def test_a_flat_series_is_a_flat_line() -> None:
    assert sparkline([2, 2, 2]) == "▁▁▁"
    assert sparkline([]) == ""


def test_long_series_are_averaged_to_the_width() -> None:
    assert shorten([1, 3, 5, 7], 2) == [2, 6]


@pytest.mark.parametrize(("seconds", "text"), [(59, "59s"), (60, "1m0s"), (90_000, "1d1h")])
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1e3, "1.0 kB"), (2.5e9, "2.5 GB")])
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text
