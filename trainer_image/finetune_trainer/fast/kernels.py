"""`training.kernels`: which kernels a model's layers run, for every method.

`refuse` is called with the spec before anything is loaded, in the preflight and in the run; `install` by
`recipes.session` once the model is there. What really runs is told in `status.resolved`.
"""

from dataclasses import replace

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_kernels import Kernels, Patch, patch
from finetune_kernels.launch import INTERPRETED, permit
from finetune_trainer.errors import TrainerError
from finetune_trainer.fast import packed_attention
from finetune_trainer.fast.head import base_of
from finetune_trainer.foreign import Model
from finetune_trainer.recipes.recipe import Ready

FIELD, ATTENTION = "training.kernels", "training.kernels.attention"
_ATTENTION = "gave the logits of the library's on a row; rows that stand in one row need no mask"
UNMEASURED = "Triton kernels are not measured on a GPU yet; `Triton` asks for them"


def refuse(spec: FineTuneJobSpec, device: str) -> None:
    """See that what was demanded can run.

    Args:
        spec: What is wanted.
        device: `cuda` or `cpu`: what the run will find.

    Raises:
        TrainerError: UnsupportedCombination if Triton was demanded where there is no GPU.
    """
    if spec.training.kernels != "Triton" or INTERPRETED:
        return
    if device == "cuda" and spec.resources.gpus_per_node:
        return
    message = "`training.kernels: Triton` without a GPU: these kernels run on GPUs alone"
    hint = "Ask for a GPU under `resources`, or leave `training.kernels` at Auto."
    raise TrainerError(Reason.UNSUPPORTED_COMBINATION, message, hint)


def install(ready: Ready, net: Model) -> Ready:
    """Patch the model's layers, and tell what was patched and what was left alone.

    Args:
        ready: The run, whose spec `refuse` has let through.
        net: The model with its adapter, not yet wrapped for several processes.

    Raises:
        TrainerError: UnsupportedCombination if Triton was demanded and no layer has such a kernel.
    """
    wanted = ready.spec.training.kernels
    kernels: Kernels = "Triton" if wanted == "Triton" else "Torch"
    # Losses and blocks of adapters would launch them on any GPU.
    permit(kernels == "Triton")
    patched = patch(net, kernels)
    told = _told(patched)
    if kernels == "Triton" and not patched.layers:
        message = (
            f"`training.kernels: Triton`, but no layer of this model has such a kernel: {told}"
        )
        hint = "Leave `training.kernels` at Auto."
        raise TrainerError(Reason.UNSUPPORTED_COMBINATION, message, hint)
    if wanted == AUTO and ready.settings.device == "cuda":
        told = f"{UNMEASURED}; {told}"
    note = Resolved(field=FIELD, value=kernels, why=told[:1900])
    return replace(ready, resolved=[*ready.resolved, note, *_attention(ready, net, kernels)])


def _attention(ready: Ready, net: Model, kernels: Kernels) -> list[Resolved]:
    """Take our attention with our kernels, or tell why it is left to the library."""
    if kernels != "Triton":
        return []
    base = base_of(net)
    against = packed_attention.why_not(base) or packed_attention.try_on(base, ready.settings)
    value = base.config._attn_implementation if against else "Triton"
    return [Resolved(field=ATTENTION, value=value, why=against or _ATTENTION)]


def _told(patched: Patch) -> str:
    layers = ", ".join(f"{count} {name}" for name, count in sorted(patched.layers.items()))
    left = "; ".join(f"{name}: {why}" for name, why in sorted(patched.left.items()))
    said = f"layers with operations of ours: {layers}" if layers else "every layer is the library's"
    return f"{said}; left alone: {left}" if left else said
