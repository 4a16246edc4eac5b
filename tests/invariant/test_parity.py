"""Every method is that of its library, step by step, and its loss does not depend on how a step is split.

The figures are in docs/reference/parity.md, which `make parity` writes.
"""

import pytest

from invariant.parity import curves, page
from invariant.parity.cases import CASES, SAME, Case
from invariant.parity.compare import parity, split
from invariant.parity.workplace import Workplace

# What leads to a gradient is rounded more often than what leads to a loss.
NORMS = 1e-4
# Adam divides by the size of a gradient, and so enlarges what rounding did to a small one.
WEIGHTS = 1e-4
# Other machines sum in other orders, and twenty steps pass that on.
STORED = 1e-3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("parity"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_curve_is_that_of_the_library(case: Case, place: Workplace) -> None:
    found = parity(case, place)
    assert found.loss is None or found.loss <= SAME
    assert found.norm is None or found.norm <= NORMS
    before = curves.stored(case.name)
    assert found.curve.losses == pytest.approx(before.losses, rel=STORED, abs=STORED)
    assert found.curve.norms == pytest.approx(before.norms, rel=STORED, abs=STORED)
    # A curve that stands still would agree with anything.
    assert len({round(norm, 6) for norm in found.curve.norms}) > 10


@pytest.mark.parametrize("case", filter(lambda c: c.splits, CASES), ids=lambda case: case.name)
def test_a_step_is_the_same_however_it_is_split(case: Case, place: Workplace) -> None:
    found = split(case, place)
    assert found
    assert found.loss <= SAME
    assert found.norm <= NORMS
    assert found.weight <= WEIGHTS


def test_the_page_has_a_row_for_every_method() -> None:
    assert [case.name for case in CASES if not page.lists(case)] == []
