from pathlib import Path

import pytest
import torch
from torch import nn

from finetune_api.v1alpha1.training import EarlyStopping
from finetune_trainer.early_stopping import Best, Criterion, Patience


def steps_until_over(values: list[float], criterion: Criterion, **stopping: float) -> int | None:
    patience = Patience(EarlyStopping.model_validate(stopping), criterion)
    for number, value in enumerate(values, start=1):
        patience.add(value)
        if patience.over:
            return number
    return None


@pytest.mark.parametrize(
    ("values", "stopping", "stops_at"),
    [
        ([3, 2, 1, 0.5], {"patience": 1}, None),
        ([3, 2, 2.5, 2.1], {"patience": 2}, 4),
        # A fall that is smaller than the threshold is no improvement.
        ([3, 2.95, 2.9], {"patience": 2, "threshold": 0.2}, 3),
        # Patience starts anew with each improvement.
        ([3, 4, 2, 4, 4], {"patience": 2}, 5),
    ],
)
def test_patience(values: list[float], stopping: dict[str, float], stops_at: int | None) -> None:
    assert steps_until_over(values, Criterion(), **stopping) == stops_at
    mirrored = [-value for value in values]
    rising = Criterion("reward", higher_is_better=True)
    assert steps_until_over(mirrored, rising, **stopping) == stops_at


def test_the_best_weights_come_back(tmp_path: Path) -> None:
    model, best = nn.Linear(2, 2), Best(tmp_path)
    model.bias.requires_grad_(False)
    kept = model.weight.detach().clone()
    best.keep(model)
    with torch.no_grad():
        model.weight += 1
        model.bias += 1
    moved_bias = model.bias.detach().clone()
    best.restore(model)
    assert torch.equal(model.weight, kept)
    # What is not trained is not touched.
    assert torch.equal(model.bias, moved_bias)
    assert list(tmp_path.iterdir()) == []
