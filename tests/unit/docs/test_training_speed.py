"""The benchmark against stock trainers: its arithmetic, and docs/reference/training-speed.md.

It imports nothing that trains: the figures were measured by `make bench-trainer`.
"""

import json
from typing import Any

import pytest

from support.definition import ROOT
from trainer import ideas, page
from trainer.figures import Goal, Spread, differences, missed, ratios

FILE = ROOT / "benchmarks/results/trainer.json"
RESULT: dict[str, Any] = json.loads(FILE.read_text("utf-8"))


def rows() -> list[dict[str, Any]]:
    """Of all cases, the first step included."""
    return [*RESULT["rows"], *RESULT["firstStep"]]


def test_a_spread_is_the_least_the_middle_and_the_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)
    assert Spread.of([4.0, 1.0]) == Spread(1.0, 2.5, 4.0)


def test_a_ratio_compares_runs_of_the_same_round() -> None:
    # Medians of both sides, 20 over 10, would say 2; no round did.
    assert ratios([10.0, 30.0, 20.0], [10.0, 10.0, 40.0], lambda run: run) == Spread(0.5, 1.0, 3.0)
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0], lambda run: run)


@pytest.mark.parametrize(
    ("goal", "met", "said"),
    [
        (Goal.speed(1.5, 1.5), True, "speed >= 1.5: met"),
        (Goal.speed(1.5, 1.499), False, "speed >= 1.5: NOT MET"),
        (Goal.memory(0.7), True, "memory <= 0.7: met"),
        (Goal.memory(0.701), False, "memory <= 0.7: NOT MET"),
        (Goal.first_step(1.0), True, "first step <= 1: met"),
        (Goal.first_step(1.001), False, "first step <= 1: NOT MET"),
    ],
)
def test_a_goal_is_met_at_its_bound_and_not_beyond(goal: Goal, met: bool, said: str) -> None:
    assert goal.met is met
    assert str(goal) == said


def test_a_difference_is_relative_above_one_and_absolute_below() -> None:
    assert differences([4.0, 0.001], [4.4, 0.001]) == pytest.approx(0.1)
    assert differences([4.0, 0.001], [4.0, 0.003]) == pytest.approx(0.002)


def test_what_is_missed_is_told_by_case_contestant_and_kind() -> None:
    goals = [{"kind": "speed", "met": True}, {"kind": "memory", "met": False}]
    told = missed([{"case": "SFT", "contestant": "stock", "goals": goals}])
    assert told == [("SFT", "stock", "memory")]


def test_the_page_shows_the_result_file() -> None:
    assert page.PAGE.read_text("utf-8") == page.written(RESULT), "run `make bench-trainer`"


def test_every_goal_in_the_file_follows_from_its_figures() -> None:
    for row in rows():
        for goal in row["goals"]:
            better = goal["found"] >= goal["wanted"]
            equal = goal["found"] == goal["wanted"]
            assert goal["met"] is (equal or better is (goal["kind"] == "speed"))


def test_every_case_has_its_profile() -> None:
    # What is measured once in bfloat16 is the same step of ours.
    cases = {row["case"] for row in RESULT["rows"]} - {"SFT, bfloat16"}
    assert cases == RESULT["profiles"].keys()


def test_no_idea_is_about_a_row_that_is_gone() -> None:
    there = {(row["case"], goal["kind"]) for row in rows() for goal in row["goals"]}
    assert ideas.IDEAS.keys() <= there
