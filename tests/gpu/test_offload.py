"""Inputs of layers that wait in the memory of the host: the same gradients, and as much less on the GPU."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

offload = pytest.importorskip("finetune_trainer.fast.offload")


def step(layers: nn.ModuleList, rows: Tensor, *, away: bool) -> tuple[list[Tensor], int]:
    """Gradients of one step in which every layer computes again, and bytes at the end of the forward pass."""
    function = partial(checkpoint, use_reentrant=False)
    if away:
        function = partial(offload.BlockInputs(rows.device).checkpoint, function)
    layers.zero_grad()
    hidden = rows
    for layer in layers:
        hidden = function(layer, hidden)
    held = torch.cuda.memory_allocated() if rows.is_cuda else 0
    hidden.square().mean().backward()
    return [each.grad.clone() for each in layers.parameters()], held


def test_offloaded_inputs_give_the_same_gradients(device: str, rehearsal: bool) -> None:
    count, size, tokens = (6, 16, 8) if rehearsal else (12, 1024, 16384)
    layers = nn.ModuleList(nn.Sequential(nn.Linear(size, size), nn.GELU()) for _ in range(count))
    layers.to(device)
    rows = torch.randn(tokens, size, device=device, requires_grad=True)
    step(layers, rows, away=False)
    plain, before = step(layers, rows, away=False)
    # Twice, since a race does not show each time.
    for _ in range(2):
        found, after = step(layers, rows, away=True)
        assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
    if not rehearsal:
        # The first input is the caller's, and the last two are still there.
        away = (count - 1 - offload.BUFFERS) * rows.nbytes
        assert before - after >= 0.95 * away
