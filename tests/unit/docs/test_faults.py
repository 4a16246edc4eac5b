"""docs/reference/faults.md: every row of the matrix is there, and every test that it names."""

import ast
import re
from functools import cache

import pytest

from support.definition import ROOT

PAGE = (ROOT / "docs/reference/faults.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_fault_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)
    assert sorted(map(int, rows)) == list(range(15, 44))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda part: part.rpartition("/")[2])
def test_every_test_that_is_named_exists(path: str, name: str) -> None:
    assert name in functions(path)


def test_no_test_is_named_in_words_that_are_not_checked() -> None:
    assert len(re.findall(r"tests/\S+::", PAGE)) == len(
        re.findall(r"`tests/[\w/]+\.py::\w+`", PAGE)
    )
