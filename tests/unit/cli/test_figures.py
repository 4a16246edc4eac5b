"""Bars, sparklines and units."""

import pytest

from kubectl_finetune.figures import bar, shorten, size, span, sparkline


@pytest.mark.parametrize(
    ("done", "total", "drawn"),
    [
        (0, 4, "░░░░"),
        (2, 4, "██░░"),
        (4, 4, "████"),
        (9, 4, "████"),
        (-1, 4, "░░░░"),
        (1, 0, "░░░░"),
    ],
)
def test_a_bar_is_full_when_all_is_done_and_never_longer(done, total, drawn):
    assert bar(done, total, 4) == drawn


def test_a_bar_is_not_full_before_the_last_step():
    assert bar(999, 1000, 30).count("█") == 29


def test_a_bar_in_ascii():
    assert bar(1, 2, 4, ascii_only=True) == "##.."


def test_a_sparkline_goes_from_the_highest_to_the_lowest_block():
    line = sparkline([4.0, 3.0, 2.0, 1.0])
    assert line[0] == "█"
    assert line[-1] == "▁"
    assert sorted(line, reverse=True) == list(line)


def test_a_flat_sparkline_is_low():
    assert sparkline([1.0, 1.0]) == "▁▁"


def test_a_sparkline_of_nothing_is_empty():
    assert sparkline([]) == ""


def test_a_sparkline_in_ascii():
    assert sparkline([0, 1], ascii_only=True).isascii()


def test_a_long_series_is_averaged_to_the_width():
    assert shorten([1, 3, 5, 7], 2) == [2, 6]
    assert len(sparkline(list(range(1000)), 30)) == 30


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m0s"),
        (3599, "59m59s"),
        (3600, "1h0m"),
        (90_000, "1d1h"),
        (-5, "0s"),
    ],
)
def test_a_span_shows_its_two_largest_units(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (269_060_552, "269.1 MB"), (4e12, "4.0 TB")],
)
def test_sizes_are_decimal(count, text):
    assert size(count) == text
