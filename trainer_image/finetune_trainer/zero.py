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
def reading(*parameters: torch.Tensor | None) -> Iterator[None]:
    """Within, parameters are whole that a module reads which does not own them. All processes must call this.

    In a forward pass of DeepSpeed's engine they are so already: it gathers what is read, and gathers it again
    for the backward pass of the module that read it.
    """
    absent = {id(each): each for each in parameters if each is not None and _is_absent(each)}
    if not absent:
        yield
        return
    with _gathered(list(absent.values()), changed=False):
        yield


def _is_absent(tensor: torch.Tensor) -> bool:
    # `NOT_AVAILABLE` of an enumeration that is imported only with DeepSpeed.
    return is_spread(tensor) and tensor.ds_status.name == "NOT_AVAILABLE"  # type: ignore[attr-defined]


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
def undivided() -> Iterator[None]:
    """Within, libraries take no model for divided, nor divide one that they load: another is trained so."""
    known: Foreign = sys.modules.get("transformers.integrations.deepspeed")
    # Set by the arguments of a trainer, for the whole process.
    told = known and known._hf_deepspeed_config_weak_ref
    if known is None or told is None:
        yield
        return
    known.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        known._hf_deepspeed_config_weak_ref = told


def end(trainer: Foreign) -> None:
    """Let go of the engine, so that models are loaded whole again and its memory is free."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    trainer.accelerator.free_memory()
    unset_hf_deepspeed_config()
    os.environ.pop(_USED, None)
