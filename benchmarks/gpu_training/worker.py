"""One contestant in a process of its own: steps at one length, or the longest that fits into memory.

    python -P -m gpu_training.worker '{"shape": "1B", …}'

Prints one line of JSON. Called by `__main__`, in a process because Liger exchanges classes for good and
because a peak of memory belongs to one contestant.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace

import torch
from gpu_training.contestants import model_of
from gpu_training.models import SHAPES
from gpu_training.steps import preferred, supervised, tokens_of

from finetune_kernels.patching import Foreign

METHODS = ("LoRA", "QLoRA", "DPO")
# The first steps compile kernels and make the states of the optimizer.
WARM = 2


@dataclass(frozen=True)
class Run:
    """What a worker does.

    Attributes:
        shape: A key of `SHAPES`.
        method: One of `METHODS`.
        contestant: A key of `libraries.NEEDS`.
        length: Tokens of a row; with a limit, the first one tried.
        steps: Timed steps.
        limit_gib: Memory that the process may take; 0 for all of it. With a limit the length doubles
            until it does not fit.
    """

    shape: str
    method: str
    contestant: str
    length: int
    steps: int
    limit_gib: float = 0.0


@dataclass
class Outcome:
    """What it found.

    Attributes:
        seconds: Of each timed step.
        tokens: Of a step.
        peak_mib: Memory of the GPU, weights included.
        losses: Of all steps.
        longest: Tokens of the longest row that was trained; 0 if none fits.
        failed: Why there is nothing to tell.
        patched: Layers that run our operations, by name.
    """

    seconds: list[float]
    tokens: int
    peak_mib: float
    losses: list[float]
    longest: int
    failed: str = ""
    patched: dict[str, int] = field(default_factory=dict)


def work(run: Run, device: str) -> Outcome:
    """Build the model, then train."""
    longest = SHAPES[run.shape].get("max_position_embeddings", 64)
    tokens = longest if run.limit_gib else run.length
    model, patched = model_of(run.contestant, run.shape, run.method, tokens, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    if not run.limit_gib:
        return replace(_timed(run, model, optimizer, run.length, device), patched=patched)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, run.limit_gib * 2**30 / total))
    best, length = Outcome([], 0, 0.0, [], 0), run.length
    while length <= longest:
        found = _timed(run, model, optimizer, length, device)
        if found.failed:
            break
        best, length = found, 2 * length
    return replace(best, patched=patched)


def _timed(
    run: Run, model: Foreign, optimizer: torch.optim.Optimizer, length: int, device: str
) -> Outcome:
    rows = 2 if run.method == "DPO" else 1
    ids = tokens_of(rows, length, SHAPES[run.shape]["vocab_size"], device)
    loss_of = preferred if run.method == "DPO" else supervised
    outcome = Outcome([], ids.numel(), 0.0, [], length)
    try:
        for number in range(WARM + run.steps):
            if number == WARM and device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            start = _now(device)
            loss = loss_of(model, ids, run.contestant)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            taken = _now(device) - start
            outcome.losses.append(loss.item())
            outcome.seconds += [taken] if number >= WARM else []
    except torch.cuda.OutOfMemoryError as error:
        outcome.failed = f"out of memory: {str(error)[:120]}"
        optimizer.zero_grad()
        torch.cuda.empty_cache()
    if device == "cuda":
        outcome.peak_mib = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return outcome


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    print(json.dumps(asdict(work(Run(**json.loads(sys.argv[1])), "cuda"))))
