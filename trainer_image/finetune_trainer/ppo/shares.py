"""What each process does of a step of PPO, and how its results come together.

Called by `ppo.algorithm` and `ppo.training`. Rows are what is divided: each process writes, scores and
judges its own, one after the other by rank, and all then hold all rows. They are small beside the logits
that they come from, and with them every mean, whitened advantage and order of rows is that of the whole
batch. With one process everything is its own already.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from finetune_trainer import processes
from finetune_trainer.rollout import Rollout


def own(rows: int) -> slice:
    """Which of so many rows, a multiple of the number of processes, are this process's."""
    each = rows // processes.world_size()
    return slice(processes.rank() * each, (processes.rank() + 1) * each)


def together(rows: Tensor) -> Tensor:
    """The rows of all processes by rank; each must call this with a tensor of the same shape."""
    if processes.world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(processes.world_size())]
    torch.distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def rollout_together(part: Rollout, pad_id: int) -> Rollout:
    """The answers of all processes, as wide as the widest; all must call this."""
    if processes.world_size() == 1:
        return part
    widths = processes.gather_objects((part.prompts.shape[1], part.answers.shape[1]))
    prompts, answers = (max(each) for each in zip(*widths, strict=True))
    left, right = prompts - part.prompts.shape[1], answers - part.answers.shape[1]
    return Rollout(
        together(pad(part.prompts, (left, 0), value=pad_id)),
        together(pad(part.prompt_mask, (left, 0))),
        together(pad(part.answers, (0, right), value=pad_id)),
        together(pad(part.mask, (0, right))),
        together(part.ended),
    )
