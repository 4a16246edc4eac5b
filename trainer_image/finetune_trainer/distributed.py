"""The processes of a run, joined: they meet, see that they agree, and see that what runs is what was asked.

Called by `recipes.course` once every process has its rows, by `recipes.session` around the trainer, and by
`watch` at the first step. Training over the processes is accelerate's, told by `strategies`.
"""

from collections.abc import Iterator
from datetime import timedelta
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from finetune_api.records import Report
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import processes, zero, zero_config
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.resolve import Settings
from finetune_trainer.resume.identity import digest
from finetune_trainer.sanity import GRADIENT_SEEN
from finetune_trainer.sharded import layer_classes, whole
from finetune_trainer.spreading import spread, uneven
from finetune_trainer.strategies import COLLECTIVE_SECONDS

BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
# Downloads and tokenization differ in time from node to node, and are in no collective.
PREPARED_SECONDS = 6 * 3600
_HELD = {
    "DDP": "each holds the whole model",
    "FSDP": "each holds a part of every tensor",
    "ZeRO1": "each holds a part of the optimiser state",
    "ZeRO2": "each holds a part of gradients and optimiser state",
    "ZeRO3": "each holds a part of every tensor",
}


def join(settings: Settings, data: Prepared[Any]) -> None:
    """Meet the other processes, and see that all have the same rows and settings.

    Raises:
        TrainerError: DistributedMismatch if they have not.
    """
    if settings.processes == 1:
        return
    if settings.device == "cuda":
        torch.cuda.set_device(processes.local_rank())
    if not dist.is_initialized():
        _meet(BACKENDS[settings.device])
    _let_accelerate_shard(settings)
    told = processes.gather_objects(_digest(settings, data))
    if other := [rank for rank, each in enumerate(told) if each != told[0]]:
        raise _mismatch(f"the rows or settings of process {other[0]} are not those of process 0")


def _meet(backend: str) -> None:
    wait = timedelta(seconds=PREPARED_SECONDS)
    store, rank, size = next(rendezvous("env://", timeout=wait))
    store.set(f"prepared-{rank}", "")
    store.wait([f"prepared-{each}" for each in range(size)], wait)
    limit = timedelta(seconds=COLLECTIVE_SECONDS)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)


def _digest(settings: Settings, data: Prepared[Any]) -> tuple[str, str]:
    return repr(settings), digest(data)


def _let_accelerate_shard(settings: Settings) -> None:
    """Set up accelerate's state on the CPU, where by itself it runs DDP whatever it is told.

    FSDP and DeepSpeed are chosen by the kind of the process group, of which those on a CPU are none.
    """
    if settings.device == "cuda":
        return
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    state = PartialState(cpu=True)
    if settings.strategy.zero:
        zero.without_compiler()
    kinds = {"FSDP": DistributedType.MULTI_GPU}
    kinds |= dict.fromkeys(zero_config.STAGES, DistributedType.DEEPSPEED)
    if settings.strategy.name in kinds:
        state._shared_state["distributed_type"] = kinds[settings.strategy.name]


def install(trainer: Foreign, settings: Settings) -> list[Resolved]:
    """Let a trainer of transformers give each process its rows, and see what runs when it trains.

    Returns:
        A list that gets what was seen.
    """
    seen: list[Resolved] = []
    if settings.processes > 1:
        if hasattr(trainer, "get_train_dataloader"):
            divided = trainer.get_train_dataloader
            trainer.get_train_dataloader = lambda: spread(divided())
            trainer.accelerator.gather = uneven(trainer.accelerator.gather)
        if settings.strategy.name == "FSDP":
            _shard_layers(trainer, settings)
        trainer.add_callback(_Attestation(trainer, settings, seen))
    return seen


def _shard_layers(trainer: Foreign, settings: Settings) -> None:
    plugin = trainer.accelerator.state.fsdp_plugin
    plugin.transformer_cls_names_to_wrap = layer_classes(trainer.model)
    # Weights keep their dtype and the arithmetic is autocast, as with the other strategies. The library's own
    # policy has norms and sums of gradients in bfloat16, and rounds losses and log-probabilities to it.
    plugin.mixed_precision_policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    forward = trainer.model.forward
    half = settings.precision == "BFloat16"

    # Without a cache, which would hold what is made of every layer's weights until the pass is over.
    @wraps(forward)
    def run(*arguments: Foreign, **named: Foreign) -> Foreign:
        with torch.autocast(settings.device, torch.bfloat16, enabled=half, cache_enabled=False):
            return forward(*arguments, **named)

    trainer.model.forward = run


class _Attestation(TrainerCallback):
    def __init__(self, trainer: Foreign, settings: Settings, seen: list[Resolved]) -> None:
        self._trainer, self._settings, self._seen = trainer, settings, seen
        self._agreed = False

    def on_train_begin(self, *_: object, **__: object) -> None:
        """All is wrapped."""
        if self._settings.strategy.zero:
            zero.note_gradients(self._trainer.model, GRADIENT_SEEN)
        self._seen[:] = attest(self._trainer, self._settings)

    def on_step_end(self, *_: object, **__: object) -> None:
        """A step is done."""
        if not self._agreed:
            require_agreement(self._trainer.model)
            self._agreed = True


def require_agreement(model: Model) -> None:
    """See that an optimiser step left every process with the same trainable weights.

    Raises:
        TrainerError: DistributedMismatch.
    """
    trained = [each for each in model.parameters() if each.requires_grad]
    sums = [float(whole(each).sum(dtype=torch.float64)) for each in trained]
    told = processes.gather_objects(sums)
    if any(each != sums for each in told):
        raise _mismatch("after a step, the trained weights differ from process to process")


def attest(trainer: Foreign, settings: Settings) -> list[Resolved]:
    """See on every process that what runs is what was asked for; before the first step.

    Args:
        trainer: Of transformers, which has wrapped its model.
        settings: What was asked for.

    Raises:
        TrainerError: DistributedMismatch on every process if one finds something else.
    """
    if settings.processes == 1:
        return []
    wrong = list(_differences(trainer, settings))
    told = processes.gather_objects(wrong)
    for rank, found in enumerate(told):
        if found:
            raise _mismatch(f"process {rank}: {'; '.join(found)}")
    return [_found(settings)]


def _differences(trainer: Foreign, settings: Settings) -> Iterator[str]:
    wanted = (settings.processes, BACKENDS[settings.device])
    found = (dist.get_world_size(), dist.get_backend())
    if found != wanted:
        yield f"{found[0]} processes over {found[1]} in place of {wanted[0]} over {wanted[1]}"
    name = wrapped_by(trainer.model_wrapped)
    if name != settings.strategy.name:
        yield f"{name} has wrapped the model in place of {settings.strategy.name}"
    precision = _precision(trainer, settings)
    if precision != settings.precision:
        yield f"the arithmetic is {precision} in place of {settings.precision}"


def _precision(trainer: Foreign, settings: Settings) -> str | None:
    if settings.strategy.zero:
        return zero.precision(trainer.model_wrapped)
    # A loop of our own has no accelerator.
    if hasattr(trainer, "precision"):
        return str(trainer.precision)
    return {"no": "Float32", "bf16": "BFloat16"}.get(trainer.accelerator.mixed_precision)


def wrapped_by(model: Model) -> str:
    """What has really wrapped a model, by what it is and not by what was asked for."""
    if isinstance(model, DistributedDataParallel):
        return "DDP"
    trained = [each for each in model.parameters() if each.requires_grad]
    if isinstance(model, FSDPModule) and all(isinstance(each, DTensor) for each in trained):
        return "FSDP"
    stage = zero.stage(model)
    return f"ZeRO{stage}" if stage else "None"


def _found(settings: Settings) -> Resolved:
    name = settings.strategy.name
    held = _HELD[name]
    value = f"{name} on {settings.processes} processes over {BACKENDS[settings.device]}"
    return Resolved(field="distributed", value=value, why=f"attested at the first step: {held}")


def end(trainer: Foreign, settings: Settings) -> None:
    """Let go of what spread the model; nothing more is asked of the trained one."""
    if settings.strategy.zero:
        zero.end(trainer)


def done() -> Report:
    """The report of a process whose work ends with training."""
    who = f"process {processes.rank()} of {processes.world_size()}"
    return Report(outcome="Complete", reason=Reason.ENDED, message=f"{who} is done")


def _mismatch(what: str) -> TrainerError:
    return TrainerError(Reason.DISTRIBUTED_MISMATCH, what)
