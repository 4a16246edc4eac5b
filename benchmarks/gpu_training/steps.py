"""Losses of a step, as stock libraries compute them and with our fused ones.

Two thirds of the tokens are supervised. DPO's reference is the model without its adapter.
"""

import torch
from torch import Tensor
from torch.nn import functional

from finetune_kernels.ops import linear_cross_entropy
from finetune_kernels.ops.frozen_head import frozen_log_probs
from finetune_kernels.patching import Foreign

BETA = 0.1


def tokens_of(rows: int, length: int, vocabulary: int, device: str) -> Tensor:
    """Random words; the first third of each row, a prompt, is that of the first row."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (rows, length), generator=generator)
    ids[:, : length // 3] = ids[:1, : length // 3]
    return ids.to(device)


def supervised(model: Foreign, ids: Tensor, contestant: str) -> Tensor:
    """The loss of SFT; Liger and Unsloth put their own fused one into the model's forward."""
    labels = ids.clone()
    labels[:, : ids.shape[1] // 3] = -100
    if contestant != "ours":
        return model(input_ids=ids, labels=labels).loss
    hidden, weight = _hidden(model, ids)
    return linear_cross_entropy(hidden, weight, labels[:, 1:].flatten())


def preferred(model: Foreign, ids: Tensor, contestant: str) -> Tensor:
    """The loss of DPO: even rows are chosen, odd ones rejected."""
    if contestant == "liger":
        return liger_preferred(model, ids)
    fused = contestant == "ours"
    with torch.no_grad(), model.disable_adapter():
        reference = _log_probs(model, ids, fused)
    margins = _log_probs(model, ids, fused) - reference
    return -functional.logsigmoid(BETA * (margins[::2] - margins[1::2])).mean()


def liger_preferred(model: Foreign, ids: Tensor) -> Tensor:
    """The same by Liger's fused loss, which wants chosen rows before rejected ones."""
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    rows, start = torch.cat((ids[::2], ids[1::2])), ids.shape[1] // 3
    with torch.no_grad(), model.disable_adapter():
        reference, weight = _hidden(model, rows, start - 1)
    hidden, _ = _hidden(model, rows, start - 1)
    states, before = (t.view(len(rows), -1, t.shape[-1]) for t in (hidden, reference))
    fused = LigerFusedLinearDPOLoss(beta=BETA, compiled=ids.is_cuda)
    loss: Tensor = fused(weight, states, rows[:, start:], ref_input=before, ref_weight=weight)[0]
    return loss


def _log_probs(model: Foreign, ids: Tensor, fused: bool) -> Tensor:
    """Of each row's answer."""
    start = ids.shape[1] // 3
    answers = ids[:, start:]
    if fused:
        hidden, weight = _hidden(model, ids, start - 1)
        found = frozen_log_probs(hidden, weight, answers.flatten()).log_probs
        return found.view(answers.shape).sum(1)
    logits = model(input_ids=ids).logits[:, start - 1 : -1]
    logs = logits.float().log_softmax(-1)
    return logs.gather(2, answers[..., None]).squeeze(2).sum(1)


def _hidden(model: Foreign, ids: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
    """States that say the next token, from a position on, one a row; and the head."""
    causal = model.get_base_model()
    states = causal.model(input_ids=ids).last_hidden_state[:, start:-1]
    return states.reshape(-1, states.shape[-1]), causal.lm_head.weight
