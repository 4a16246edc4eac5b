"""Answers to one prompt stand in one pass, and a pass takes as many as its tokens allow."""

import random

import pytest
import torch

from finetune_trainer.fast.groups import Step, together

ROWS = 12


def passes(count: int) -> list[dict[str, object]]:
    """Four answers to each of three prompts, drawn by lot; the second prompt is the first with padding."""
    prompts = torch.tensor([[5, 6, 7], [0, 6, 7], [8, 6, 7]])
    masks = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 1]])
    order = random.Random(3).sample(range(ROWS), ROWS)  # noqa: S311
    parts = [order[first : first + ROWS // count] for first in range(0, ROWS, ROWS // count)]
    return [
        {
            "prompt_ids": prompts[[row % 3 for row in rows]],
            "prompt_mask": masks[[row % 3 for row in rows]],
            "advantages": torch.tensor(rows),
            "names": list(map(str, rows)),
            "num_items_in_batch": torch.tensor(7),
            "ref_per_token_logps": None,
        }
        for rows in parts
    ]


@pytest.mark.parametrize("count", [3, 6])
def test_a_pass_has_answers_to_one_prompt(count: int) -> None:
    found = together(passes(count))
    assert len(found) == count
    for each in found:
        assert len(each["advantages"]) == ROWS // count
        assert len({row % 3 for row in each["advantages"].tolist()}) == 1
        # What belongs to an answer stays with it.
        assert each["names"] == list(map(str, each["advantages"].tolist()))
        assert each["num_items_in_batch"] == 7
        assert each["ref_per_token_logps"] is None
        padded = each["advantages"][0] % 3 == 1
        assert each["prompt_mask"].sum(1).tolist() == [2 if padded else 3] * (ROWS // count)
    assert sorted(row for each in found for row in each["advantages"].tolist()) == list(range(ROWS))


@pytest.mark.parametrize(
    ("step", "room", "answers"),
    [
        # A prompt of 200 with four answers of 30 is 320; with two it is 260, and two groups are 640.
        (Step(8, 4, 200, 30), 480, 4),
        (Step(8, 4, 200, 30), 319, 2),
        (Step(8, 4, 200, 30), 640, 8),
        # Six answers would be one group and a half; the room is there.
        (Step(24, 4, 10, 10), 110, 8),
        (Step(24, 4, 10, 10), 99, 4),
        # Three of six: half a group.
        (Step(6, 6, 100, 50), 250, 3),
        # Nothing fits: one answer at a time.
        (Step(8, 4, 200, 30), 100, 1),
        # Never more than eight, which other parts of a run count on.
        (Step(32, 16, 10, 10), 10_000, 8),
    ],
)
def test_a_pass_takes_whole_groups_or_even_parts(step: Step, room: int, answers: int) -> None:
    assert step.largest_pass(room) == answers
