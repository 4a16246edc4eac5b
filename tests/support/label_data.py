"""Small labelled data that tiny models visibly learn from. Everything follows from the seed."""

import random
from typing import Any

from support.tiny_models import COLOURS


def classes(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Texts whose class is the colour that most of their words name."""
    draw = random.Random(seed)  # noqa: S311
    rows = []
    for _ in range(count):
        colour = draw.choice(COLOURS)
        words = [colour] * draw.randint(3, 6) + ["thing", str(draw.randrange(1000))]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": colour})
    return rows


def tags(count: int, *, seed: int = 0, scheme: str = "entities") -> list[dict[str, Any]]:
    """Words with tags: `entities` marks colours with the thing that they belong to, as IOB2 does;
    any other scheme tags every word by its kind.
    """
    draw = random.Random(seed)  # noqa: S311
    rows = []
    for _ in range(count):
        words, found = [], []
        for _ in range(draw.randint(2, 4)):
            colour = draw.choice(COLOURS)
            if scheme == "entities":
                words += ["which", colour, "thing"]
                found += ["O", "B-THING", "I-THING"]
            else:
                words += ["which", colour]
                found += ["QUESTION", "COLOUR"]
        rows.append({"tokens": words, "tags": found})
    return rows
