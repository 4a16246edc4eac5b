"""The numerics table: no operation is missing, and what is committed says what the tests demand."""

import re
from pathlib import Path

import torch

from finetune_kernels import ops
from numerics.errors import Errors, measured
from numerics.page import page
from support.kernel_cases import CASES, SMALL, Place
from support.kernel_truth import DTYPES

PAGE = Path(__file__).parents[2] / "docs/reference/numerics.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|((?: [\d.-]+ \([\de.+-]+\) \|){3})$", re.MULTILINE)


def test_every_operation_has_a_case() -> None:
    functions = {name for name in ops.__all__ if not isinstance(getattr(ops, name), type)}
    assert set(CASES) == functions


def test_every_result_of_every_operation_is_in_the_committed_table() -> None:
    rows = [(operation, result) for operation, result, _ in ROW.findall(PAGE.read_text())]
    place = Place(torch.float32)
    assert rows == [(n, r) for n, case in CASES.items() for r in case(SMALL, place).results]


def test_the_committed_errors_obey_the_rule() -> None:
    for operation, result, cells in ROW.findall(PAGE.read_text()):
        figures = re.findall(r" ([\d.]+) \(([\de.+-]+)\)", cells)
        for dtype, (ratio, ours) in zip(DTYPES, figures, strict=True):
            # Ratios are written with two digits.
            stock = float(ours) / max(float(ratio) - 0.01, 0.01)
            errors = Errors(operation, result, dtype, float(ours), stock)
            assert errors.allowed, errors


def test_what_is_worse_is_named(monkeypatch) -> None:
    monkeypatch.setattr("numerics.errors.CASES", {"swiglu": CASES["swiglu"]})
    found = measured("cpu", SMALL)
    assert [each.result for each in found[:3]] == ["h", "dgate", "dup"]
    assert all(each.allowed for each in found)
    assert page(found, "cpu").count("\n| `swiglu` |") == 3
    assert not Errors("swiglu", "h", torch.float32, 1e-5, 1e-7).allowed
