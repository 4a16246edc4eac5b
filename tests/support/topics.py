"""Plain English sentences about three topics, whose held-out half shares no content word with training.

A model that only counts words is at chance on the held-out sentences; one that knows English is not.
Used by tests on real weights. Everything follows from the seed.
"""

import random
from typing import Any

# Topic -> subjects, actions and things, each for training and for held-out rows.
_WORDS: dict[str, tuple[list[str], list[str]]] = {
    "cooking": (
        ["soup", "garlic", "bread", "butter", "onions", "pasta", "cheese", "salad", "oven", "pepper"],
        ["stew", "dough", "carrots", "sauce", "noodles", "flour", "kettle", "basil", "rice", "cake"],
    ),
    "sport": (
        ["goal", "striker", "tennis", "marathon", "coach", "stadium", "league", "sprint", "team", "rugby"],
        ["referee", "boxing", "penalty", "swimmer", "cup", "hockey", "athlete", "goalie", "relay", "match"],
    ),
    "music": (
        ["guitar", "melody", "singer", "concert", "violin", "drums", "album", "chorus", "piano", "band"],
        ["orchestra", "trumpet", "lyrics", "flute", "tenor", "opera", "bass", "choir", "rhythm", "harmony"],
    ),
}  # fmt: skip
_FRAMES = (
    "We talked about the {a} and the {b} all evening.",
    "She told me that the {a} was better than the {b}.",
    "Nobody expected the {a} after what happened to the {b}.",
    "There is a long article on the {a}, the {b} and the {c}.",
    "His favourite memory is of the {a} and some {b}.",
    "Without the {a} there would have been no {b}.",
)


def topics(count: int, *, held_out: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with a sentence (`text`) and its topic (`label`), no two of them the same.

    Args:
        count: How many rows.
        held_out: Take the words that no training row has.
        seed: Of the drawing.
    """
    draw = random.Random(seed + held_out)  # noqa: S311
    found: dict[str, str] = {}
    while len(found) < count:
        topic = draw.choice(list(_WORDS))
        a, b, c = draw.sample(_WORDS[topic][held_out], 3)
        found[draw.choice(_FRAMES).format(a=a, b=b, c=c)] = topic
    return [{"text": text, "label": topic} for text, topic in found.items()]
