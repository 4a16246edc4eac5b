"""Rows as text, with the stretches that carry loss marked, so that people can see what is learned.

Called by `draw_up`. Which rows are shown follows from their lengths alone: from the shortest to the
longest in equal distances.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from finetune_trainer.data.contract.view import Stretch, View
from finetune_trainer.data.mapped import lengths
from finetune_trainer.data.rows import DataRow

Decode = Callable[[Sequence[int]], str]

OPEN, CLOSE = "⟦", "⟧"
MAX_TOKENS = 1000
"""Tokens of a sequence that are shown; of a longer one, its beginning and its end."""


def choose(rows: Sequence[DataRow], count: int) -> list[int]:
    """Indices of the rows to show."""
    if count == 0:
        return []
    found = lengths(rows)
    ordered = sorted(range(len(rows)), key=lambda index: (found[index], index))
    distance = (len(ordered) - 1) / max(1, count - 1)
    places = [round(number * distance) for number in range(count)]
    return [ordered[place] for place in dict.fromkeys(places)]


def markdown(views: Sequence[View], decode: Decode) -> str:
    """The rows as a page."""
    head = (
        "# Training rows as the model meets them\n\n"
        f"The text between {OPEN} and {CLOSE} carries loss; everything else is only read.\n"
    )
    return head + "".join(_row(view, decode) for view in views)


def _row(view: View, decode: Decode) -> str:
    parts = [f"\n## {_one_line(view.origin)}\n"]
    for name, stretches in view.sequences.items():
        count = sum(len(stretch.ids) for stretch in stretches)
        text = marked(stretches, decode)
        fence = _fence(text)
        parts.append(f"\n{_one_line(name)}, {count} tokens:\n\n{fence}text\n{text}\n{fence}\n")
    return "".join(parts)


def marked(stretches: Sequence[Stretch], decode: Decode) -> str:
    """One sequence as text with its marks."""
    parts: list[str] = []
    before: list[int] = []
    written = ""
    for stretch in _shortened(stretches):
        if isinstance(stretch, str):
            parts.append(stretch)
            before, written = [], ""
            continue
        # Decoded together with what stands before, because some tokenizers drop a leading space.
        before += stretch.ids
        through = decode(before)
        text = through.removeprefix(written) if through.startswith(written) else decode(stretch.ids)
        written = through
        note = f"({stretch.note})" if stretch.note else ""
        parts.append(f"{OPEN}{text}{CLOSE}{note}" if stretch.supervised else text)
    return "".join(parts)


def _shortened(stretches: Sequence[Stretch]) -> Iterator[Stretch | str]:
    total = sum(len(stretch.ids) for stretch in stretches)
    if total <= MAX_TOKENS:
        yield from stretches
        return
    half = MAX_TOKENS // 2
    yield from _between(stretches, 0, half)
    yield f" [… {total - 2 * half} tokens …] "
    yield from _between(stretches, total - half, total)


def _between(stretches: Sequence[Stretch], first: int, last: int) -> Iterator[Stretch]:
    position = 0
    for stretch in stretches:
        ids = stretch.ids[max(0, first - position) : max(0, last - position)]
        position += len(stretch.ids)
        if ids:
            yield Stretch(ids, stretch.supervised, stretch.note)


def _fence(text: str) -> str:
    # Longer than any run of backticks within, so that no row can end the block.
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)


def _one_line(text: str) -> str:
    return " ".join(text.split())
