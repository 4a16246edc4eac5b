"""Which strategy spreads a model over several processes, and how transformers is told. Pure.

Called by `recipes.course` to choose, by `arguments` to render, and by `distributed` to see that it is
what ran. FSDP is torch's `fully_shard` (Zhao et al. 2023, arXiv 2304.11277), through accelerate.
"""

from dataclasses import dataclass
from typing import Any

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.errors import TrainerError

# Of these it is shown that several processes learn what one learns.
METHODS = ("SFT", "DPO", "IPO")
# A collective of training waits no longer for a process than this.
COLLECTIVE_SECONDS = 1800


@dataclass(frozen=True)
class Strategy:
    """How a model is spread.

    Attributes:
        name: `None`: there is one process. `DDP`: each holds the whole model. `FSDP`: each holds a part
            of everything.
        offload: Whether parts and optimiser state lie in the memory of the CPU.
    """

    name: str = "None"
    offload: bool = False

    @property
    def sharded(self) -> bool:
        """Whether no process holds the whole model in training."""
        return self.name == "FSDP"


ONE_PROCESS = Strategy()


def refuse(spec: FineTuneJobSpec, processes: int) -> None:
    """See that this method and tuning can be spread.

    Raises:
        TrainerError: DistributedUnsupported.
    """
    if processes == 1:
        return
    strategy = spec.distributed.strategy
    if spec.method.type not in METHODS:
        what = f"{spec.method.type} on {processes} processes"
        raise _unsupported(what, f"spread are {', '.join(METHODS)}; the others take one GPU")
    if spec.data.streaming:
        raise _unsupported("streamed rows on several processes", "leave out `data.streaming`")
    if spec.tuning.type == "AdaLoRA":
        raise _unsupported("AdaLoRA on several processes", "use LoRA, or one GPU")
    if strategy == "FSDP":
        _refuse_fsdp(spec)


def _refuse_fsdp(spec: FineTuneJobSpec) -> None:
    if spec.method.type != "SFT" or spec.model.task != "text-generation":
        raise _unsupported(f"{spec.method.type} of {spec.model.task} with FSDP", "use DDP")
    if spec.training.early_stopping:
        raise _unsupported("`training.earlyStopping` with FSDP", "use DDP")
    if spec.tuning.quantization:
        raise _unsupported("a quantised base with FSDP", "use DDP")
    if spec.tuning.type not in ("LoRA", "Full"):
        raise _unsupported(f"{spec.tuning.type} with FSDP", "use DDP, or LoRA or Full")


def choose(
    spec: FineTuneJobSpec, processes: int, *, needed: int, room: int | None
) -> tuple[Strategy, list[Resolved]]:
    """The strategy of a run.

    Args:
        spec: What is wanted.
        processes: How many there are.
        needed: Bytes on each device if each holds the whole model, counted by `memory`.
        room: Bytes of a device; None if that is not known, as on the CPU.
    """
    wanted, offload = spec.distributed.strategy, spec.distributed.offload == "All"
    if processes == 1:
        return ONE_PROCESS, []
    if wanted != AUTO:
        return Strategy(wanted, offload), []
    name, why = _auto(spec, needed, room)
    return Strategy(name, offload), [Resolved(field="distributed.strategy", value=name, why=why)]


def _auto(spec: FineTuneJobSpec, needed: int, room: int | None) -> tuple[str, str]:
    if room is None:
        return "DDP", "each process holds the whole model; how much room it has is not known"
    need = f"the plan needs {needed / 2**30:.1f} GiB of the {room / 2**30:.1f} GiB of a GPU"
    if needed <= room:
        return "DDP", f"the whole model fits each GPU, and nothing else must be sent: {need}"
    try:
        _refuse_fsdp(spec)
    except TrainerError as error:
        return "DDP", f"{need}, but it cannot be sharded: {error.message}"
    return "FSDP", f"the whole model does not fit each GPU: {need}"


def arguments(strategy: Strategy, device: str) -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments`, for more than one process; golden files show them."""
    common: dict[str, Any] = {
        "ddp_timeout": COLLECTIVE_SECONDS,
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
    }
    if strategy.name != "FSDP":
        return common
    # Without a GPU accelerate would run DDP in place of FSDP, unless it finds its state set up.
    own_state = {"accelerator_config": {"use_configured_state": True}} if device == "cpu" else {}
    config = {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "cpu_offload": strategy.offload,
        "state_dict_type": "FULL_STATE_DICT",
    }
    return {**common, "fsdp": True, "fsdp_config": config, **own_state}


def _unsupported(what: str, hint: str) -> TrainerError:
    return TrainerError(Reason.DISTRIBUTED_UNSUPPORTED, f"{what} is not supported", hint)
