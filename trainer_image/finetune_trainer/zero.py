"""DeepSpeed's ZeRO at work: what it is, which gradients came, tensors that are spread, and its end.

Called by `distributed`, `sharded` and `resume`. DeepSpeed is imported only once a job asks for it, because
that is slow; what it is told stands in `zero_config`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from finetune_trainer.foreign import Foreign, Model

# Set by accelerate, and never unset.
_USED = "ACCELERATE_USE_DEEPSPEED"


def without_compiler() -> None:
    """On the CPU: see that DeepSpeed does not compile its shortcut for gloo, which takes a minute."""
    import deepspeed
    from deepspeed.ops.op_builder import ShareMemCommBuilder

    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False


def is_spread(tensor: torch.Tensor) -> bool:
    """Whether this is a parameter of which ZeRO-3 gave each process a part."""
    return hasattr(tensor, "ds_id")


def shape(parameter: torch.Tensor) -> torch.Size:
    """The shape of a parameter that is spread."""
    return torch.Size(parameter.ds_shape)  # type: ignore[attr-defined]


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A copy of a parameter that is spread. All processes must call this."""
    with _gathered([parameter], changed=False):
        return parameter.detach().clone()


@contextmanager
def changing(parameter: torch.Tensor) -> Iterator[None]:
    """Within, a parameter is whole, and what rank 0 writes to it holds. All processes must call this."""
    if not is_spread(parameter):
        yield
        return
    with _gathered([parameter], changed=True):
        yield


def _gathered(parameters: list[torch.Tensor], *, changed: bool) -> Foreign:
    from deepspeed.runtime.zero import GatheredParameters

    return GatheredParameters(parameters, modifier_rank=0 if changed else None)


def is_engine(model: Model) -> bool:
    """Whether DeepSpeed has wrapped a model."""
    if sys.modules.get("deepspeed") is None:
        return False
    from deepspeed import DeepSpeedEngine

    return isinstance(model, DeepSpeedEngine)


def stage(wrapped: Model) -> int | None:
    """The stage of ZeRO that really divides the state of a model, by what its parts are; None for none."""
    if not is_engine(wrapped):
        return None
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    optimizer = wrapped.optimizer
    trained = [each for each in wrapped.module.parameters() if each.requires_grad]
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        return 3 if all(map(_has_part, wrapped.module.parameters())) else None
    if not isinstance(optimizer, DeepSpeedZeroOptimizer):
        return None
    kept = sum(each.numel() for each in optimizer.single_partition_of_fp32_groups)
    held = sum(each.numel() for each in trained)
    if kept >= held:
        return None
    return 2 if optimizer.partition_gradients else 1


def _has_part(parameter: torch.Tensor) -> bool:
    return is_spread(parameter) and parameter.ds_tensor.numel() < max(2, parameter.ds_numel)  # type: ignore[attr-defined]


def precision(engine: Foreign) -> str:
    """The arithmetic of a model that DeepSpeed has wrapped."""
    if not engine.torch_autocast_enabled():
        return "Float32"
    return {torch.bfloat16: "BFloat16"}.get(engine.torch_autocast_dtype(), "Float16")


def note_gradients(module: nn.Module, seen: str) -> None:
    """Mark each trained parameter that a gradient reaches: ZeRO keeps none where it is looked for.

    Args:
        module: The model.
        seen: Attribute that becomes true.
    """
    for each in module.parameters():
        if each.requires_grad:
            _note(each, seen)


def _note(parameter: torch.Tensor, seen: str) -> None:
    def note(_: torch.Tensor) -> None:
        setattr(parameter, seen, True)
        hook.remove()

    hook = parameter.register_hook(note)  # type: ignore[no-untyped-call]


@contextmanager
def undivided(trainer: Foreign) -> Iterator[None]:
    """Before training: libraries must not take a model for divided because it is going to be."""
    from transformers.integrations.deepspeed import (
        set_hf_deepspeed_config,
        unset_hf_deepspeed_config,
    )

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(trainer.args.hf_deepspeed_config)


def end(trainer: Foreign) -> None:
    """Let go of the engine, so that models are loaded whole again and its memory is free."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    trainer.accelerator.free_memory()
    unset_hf_deepspeed_config()
    os.environ.pop(_USED, None)
