"""Writes the chart's values.schema.json and the values table of its README.md from values.yaml.

Run as `python helm/generate.py` after a change of values.yaml; `--check` only tells whether the two
files are up to date (exit code 1 if not). A value's meaning is the `# --` comment above its key;
its JSON schema is what its default says, with the fragment of its `# @schema` comment laid over.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

CHART = Path(__file__).parent / "finetune-operator"
START, END = "<!-- values: start -->", "<!-- values: end -->"
KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z]+):")
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}


@dataclass(frozen=True)
class Comment:
    """What stands above a key: its meaning and its schema fragment."""

    meaning: str = ""
    schema: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """One key of values.yaml with its path, default and comment."""

    path: tuple[str, ...]
    default: Any
    comment: Comment


def parse_comment(lines: list[str]) -> Comment:
    """The comment lines above one key, without their `#`, taken apart."""
    schema: dict[str, Any] = {}
    meaning: list[str] = []
    for line in lines:
        if line.startswith("@schema "):
            schema = plain(line.removeprefix("@schema "))
        elif line.startswith("-- ") or meaning:
            meaning.append(line.removeprefix("-- "))
    return Comment(" ".join(meaning), schema)


def comments(text: str) -> Iterator[tuple[tuple[str, ...], Comment]]:
    """Yields the path of every block-style key with the comment right above it."""
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        if line.strip().startswith("#"):
            above.append(line.strip().removeprefix("#").strip())
            continue
        if found := KEY.match(line):
            indent = len(found["indent"])
            parents = [entry for entry in parents if entry[0] < indent]
            parents.append((indent, found["key"]))
            yield tuple(key for _, key in parents), parse_comment(above)
        above = []


def values(text: str) -> Iterator[Value]:
    """Yields every documented value; the keys below an undocumented one belong to its parent."""
    tree = plain(text)
    for path, comment in comments(text):
        if comment.meaning:
            default: Any = tree
            for key in path:
                default = default[key]
            yield Value(path, default, comment)


def schema(entries: list[Value]) -> dict[str, Any]:
    """The closed JSON schema of the values."""
    top = closed({})
    for entry in entries:
        parent = top
        for key in entry.path[:-1]:
            parent = parent["properties"][key]
        children = any(e.path[:-1] == entry.path for e in entries)
        parent["properties"][entry.path[-1]] = (
            closed(entry.comment.schema) if children else leaf(entry)
        )
    return {"$schema": "http://json-schema.org/draft-07/schema#", **top}


def closed(extra: dict[str, Any]) -> dict[str, Any]:
    """An object that takes the keys of the chart and no other."""
    return {"type": "object", "additionalProperties": False, "properties": {}} | extra


def leaf(entry: Value) -> dict[str, Any]:
    """The schema of one value; where fractions of seconds make sense, they are allowed."""
    kind = TYPES.get(type(entry.default), "object")
    if kind == "integer" and entry.path[-1].endswith("Seconds"):
        kind = "number"
    return {"type": kind, "description": entry.comment.meaning} | entry.comment.schema


def table(entries: list[Value]) -> str:
    """The values as a Markdown table; groups of values have no row of their own."""
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for entry in entries:
        if not any(other.path[: len(entry.path)] == entry.path != other.path for other in entries):
            key, default = ".".join(entry.path), json.dumps(entry.default)
            rows.append(f"| `{key}` | `{default}` | {entry.comment.meaning} |")
    return "\n".join(rows)


def plain(text: str) -> dict[str, Any]:
    """A YAML mapping as plain Python values."""
    return dict(YAML(typ="safe", pure=True).load(text))


def generated(chart: Path) -> dict[Path, str]:
    """What the generated files of a chart ought to hold."""
    entries = list(values((chart / "values.yaml").read_text()))
    readme = chart / "README.md"
    head, _, rest = readme.read_text().partition(START)
    return {
        chart / "values.schema.json": json.dumps(schema(entries), indent=2) + "\n",
        readme: f"{head}{START}\n{table(entries)}\n{END}{rest.partition(END)[2]}",
    }


def main() -> int:
    """Writes the files, or with `--check` compares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 when stale")
    check = parser.parse_args().check
    files = generated(CHART)
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            sys.stderr.write(f"{path} is out of date; run `python helm/generate.py`\n")
        else:
            path.write_text(files[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
