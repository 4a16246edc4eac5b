"""Reading any object forgivingly."""

import pytest

from kubectl_finetune.job import Block, Job

COMPLETE = {"type": "Complete", "status": "True"}
FAILED = {"type": "Failed", "status": "True"}


def job(**status):
    return Job({"metadata": {"name": "demo", "namespace": "team"}, "status": status})


@pytest.mark.parametrize(
    ("conditions", "outcome"),
    [
        ([], None),
        ([COMPLETE], "Complete"),
        ([FAILED], "Failed"),
        ([{"type": "Complete", "status": "False"}], None),
        ([{"type": "Running", "status": "True"}, FAILED], "Failed"),
        ([{"type": "FromTheFuture", "status": "True"}], None),
        (["garbage", 7, COMPLETE], "Complete"),
        ("garbage", None),
        (None, None),
    ],
)
def test_the_outcome_is_read_from_the_conditions(conditions, outcome):
    assert job(conditions=conditions).outcome == outcome


def test_the_display_word_decides_nothing():
    assert job(state="Complete", conditions=[]).outcome is None


def test_a_job_without_status_waits():
    assert Job({"metadata": {"name": "demo"}}).state == "Waiting"


@pytest.mark.parametrize(
    ("value", "number"),
    [("1.25", 1.25), (3, 3.0), ("soon", None), (None, None), ([], None), ({}, None)],
)
def test_numbers_are_read_from_strings_too(value, number):
    assert Block({"a": {"b": value}}).number("a.b") == number


@pytest.mark.parametrize("path", ["a.b.c.d", "x", "a.b"])
def test_a_path_that_ends_early_reads_as_absent(path):
    assert Block({"a": {"b": None}}).text(path) is None


def test_text_cannot_move_the_cursor():
    assert Block({"a": "\x1b[31mred\x1b[0m\x07\rnext\tline\n"}).text("a") == "rednext\tline\n"


@pytest.mark.parametrize("value", ["yesterday", "2026-11-24", "2026-11-24T20:00:00", 7, None])
def test_only_a_time_with_a_zone_is_a_time(value):
    assert Block({"a": value}).time("a") is None
    assert Block({"a": "2026-11-24T20:00:00Z"}).time("a").hour == 20
