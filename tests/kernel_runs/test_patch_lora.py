"""Fifty steps of a patched adapter, against PEFT's own."""

import copy

import pytest
import torch

from finetune_kernels import patch
from support.adapted_models import IDS, adapted


def test_fifty_steps_have_the_losses_of_peft() -> None:
    def losses(model: torch.nn.Module) -> list[float]:
        optimizer, seen = torch.optim.AdamW(model.parameters(), lr=5e-3), []
        for _ in range(50):
            optimizer.zero_grad()
            loss = model(input_ids=IDS[:1], labels=IDS[:1], use_cache=False).loss
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        return seen

    want, model = losses(adapted()), adapted()
    patch(model, "Triton")
    got = losses(copy.deepcopy(model))
    assert want[-1] < 0.8 * want[0]
    assert got == pytest.approx(want, rel=1e-4)
