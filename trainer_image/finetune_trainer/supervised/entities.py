"""Entities in tag sequences of the IOB2 scheme, and how well they were found. Pure.

Used by `recipes.token_classification`. `B-X` begins an entity of kind X and `I-X` continues it; all
other tags are outside (Tjong Kim Sang and Veenstra 1999, arXiv cs/9907006). An entity counts as found if
its kind, its first and its last word are right. As in the script `conlleval` of CoNLL-2003, an `I-X`
that continues nothing begins an entity.
"""

from collections.abc import Sequence

from finetune_trainer.supervised.metrics import Counts

OUTSIDE = "O"

Entity = tuple[str, int, int]


def are_entity_tags(names: Sequence[str]) -> bool:
    """Whether all tags are `O`, `B-…` or `I-…`, and at least one begins an entity."""
    parts = [name.partition("-") for name in names if name != OUTSIDE]
    return any(prefix == "B" for prefix, _, _ in parts) and all(
        prefix in ("B", "I") and kind for prefix, _, kind in parts
    )


def entities(tags: Sequence[str]) -> set[Entity]:
    """Kind, first word and last word of each entity.

    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
    [('LOC', 3, 3), ('LOC', 4, 4), ('PER', 0, 1)]
    """
    found: list[Entity] = []
    before = OUTSIDE
    for place, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix == "I" and before.partition("-")[2] == kind:
            found[-1] = (kind, found[-1][1], place)
        elif tag != OUTSIDE:
            found.append((kind, place, place))
        before = tag
    return set(found)


def count_entities(right: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> Counts:
    """Entities over all rows; the kinds count by how often they occur (a micro average)."""
    pairs = [(entities(a), entities(b)) for a, b in zip(right, said, strict=True)]
    return Counts(
        hits=sum(len(a & b) for a, b in pairs),
        found=sum(len(b) for _, b in pairs),
        there=sum(len(a) for a, _ in pairs),
    )
