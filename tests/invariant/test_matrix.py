"""The compatibility table tells what the last run of `make matrix` found, and still holds."""

from importlib.metadata import version

import pytest

from finetune_api.compatibility_page import cells
from invariant.matrix import record
from invariant.matrix.runner import run

# Prime, so that a sample walks through methods, tunings and families.
EVERY = 41


def test_the_table_says_what_the_last_run_of_every_cell_found() -> None:
    found = record.read()
    assert set(found) == {record.name_of(cell) for cell in cells()}, "run `make matrix`"
    wrong = [
        f"{record.name_of(cell)}: {contradiction}"
        for cell in cells()
        if (
            contradiction := record.contradiction(
                cell, works=found[record.name_of(cell)] == "works"
            )
        )
    ]
    assert wrong == []


def test_the_runs_were_with_the_libraries_that_are_installed() -> None:
    versions = record.versions()
    assert versions == {name: version(name) for name in record.LIBRARIES}, "run `make matrix`"


@pytest.mark.timeout(900)
def test_a_sample_of_the_cells_still_ends_as_the_table_says() -> None:
    for outcome in run(cells()[::EVERY], processes=2):
        name = record.name_of(outcome.cell)
        assert record.contradiction(outcome.cell, works=outcome.works) is None, (
            f"{name}: {outcome.ending}"
        )
