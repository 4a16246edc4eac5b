"""Which strategy spreads a model over several processes, and how transformers is told. Pure.

Called by `recipes.course` to choose, by `arguments` to render, and by `distributed` to see that it is
what ran. FSDP is torch's `fully_shard` (Zhao et al. 2023, arXiv 2304.11277), ZeRO is DeepSpeed's; both go
through accelerate.
"""

from dataclasses import dataclass
from typing import Any

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import zero_config
from finetune_trainer.errors import TrainerError

# A collective of training waits no longer for a process than this.
COLLECTIVE_SECONDS = 1800


@dataclass(frozen=True)
class Strategy:
    """How a model is spread.

    Attributes:
        name: `None`: there is one process. `DDP`: each holds the whole model. `FSDP`: each holds a part
            of everything. `ZeRO1`, `ZeRO2`, `ZeRO3`: of the optimiser state, of gradients too, of
            everything.
        offload: As in the spec: what lies in the memory of the CPU.
    """

    name: str = "None"
    offload: str = "None"

    @property
    def zero(self) -> bool:
        """Whether DeepSpeed trains."""
        return self.name in zero_config.STAGES

    @property
    def parts(self) -> tuple[str, ...]:
        """What each process holds but a part of, in the words of `memory.Memory`."""
        return _PARTS.get(self.name, ())

    @property
    def offloaded(self) -> tuple[str, ...]:
        """What lies in the memory of the CPU, in the same words."""
        if self.offload == "None":
            return ()
        # The gradients of what is stepped there go there, but ZeRO-1 has them whole on the GPU first.
        found = {"optimizer"} if self.name == "ZeRO1" else {"optimizer", "gradients"}
        found |= {"weights"} if self.offload == "All" else set()
        return tuple(sorted(found))


_PARTS = {
    "FSDP": ("weights", "gradients", "optimizer"),
    "ZeRO1": ("optimizer",),
    "ZeRO2": ("gradients", "optimizer"),
    "ZeRO3": ("weights", "gradients", "optimizer"),
}
ONE_PROCESS = Strategy()
_ALL, _ZERO, _WHOLE_WEIGHTS = tuple(_PARTS), tuple(zero_config.STAGES), ("ZeRO1", "ZeRO2")
# What is shown to learn what one process learns, and with which strategies; DDP takes everything.
_METHODS = dict.fromkeys(("SFT", "DPO", "IPO", "KTO", "ORPO", "CPO", "SimPO", "Reward"), _ALL)
# Those that write answers call the model outside of what gathers its weights.
_METHODS |= dict.fromkeys(("GRPO", "RLOO"), _WHOLE_WEIGHTS)
_TASKS = dict.fromkeys(("text-generation", "text-classification", "token-classification"), _ALL)
# Several of their modules share a tensor, which accelerate does not divide with FSDP.
_TASKS |= dict.fromkeys(("fill-mask", "text2text-generation"), _ZERO)
_TUNINGS = {"LoRA": _ALL, "Full": _ALL, "IA3": _WHOLE_WEIGHTS}


def whole(processes: int) -> Strategy:
    """The strategy with which each process holds the whole model."""
    return ONE_PROCESS if processes == 1 else Strategy("DDP")


def refuse(spec: FineTuneJobSpec, processes: int) -> None:
    """See that this method and tuning can be spread.

    Raises:
        TrainerError: DistributedUnsupported.
    """
    _refuse_offload(spec, processes)
    if processes == 1:
        return
    strategy = spec.distributed.strategy
    if strategy in _PARTS:
        _refuse_divided(spec, strategy)
    if strategy in zero_config.STAGES:
        _refuse_zero(spec, strategy)


def _refuse_divided(spec: FineTuneJobSpec, strategy: str) -> None:
    method, tuning = spec.method.type, spec.tuning.type
    _require(strategy, method, _METHODS.get(method, ()))
    _require(strategy, f"{method} of {spec.model.task}", _TASKS.get(spec.model.task, ()))
    if spec.training.gradient_checkpointing == "Offload":
        raise _unsupported(f"offloaded inputs of layers with {strategy}", "use DDP, or Enabled")
    if spec.tuning.quantization:
        raise _unsupported(f"a quantised base with {strategy}", "use DDP")
    _require(strategy, tuning, _TUNINGS.get(tuning, ()), ", or LoRA or Full")


def _require(strategy: str, what: str, able: tuple[str, ...], more: str = "") -> None:
    if strategy not in able:
        hint = " or ".join(["use DDP", *able])
        raise _unsupported(f"{what} with {strategy}", hint + more)


def _refuse_zero(spec: FineTuneJobSpec, strategy: str) -> None:
    if spec.training.optimizer not in (AUTO, "AdamW"):
        # DeepSpeed gives an optimiser flat pieces, and these go by the shape of a tensor.
        what = f"`training.optimizer` {spec.training.optimizer} with {strategy}"
        raise _unsupported(what, "use AdamW, or DDP")
    if spec.tuning.lora and spec.tuning.lora.learning_rate_ratio is not None:
        raise _unsupported(f"`tuning.lora.learningRateRatio` with {strategy}", "use DDP")


def _refuse_offload(spec: FineTuneJobSpec, processes: int) -> None:
    offload, strategy = spec.distributed.offload, spec.distributed.strategy
    if offload == "None":
        return
    if strategy not in zero_config.STAGES:
        hint = "name ZeRO1, ZeRO2 or ZeRO3 under `distributed.strategy`"
        raise _unsupported(f"`distributed.offload` with {strategy}", hint)
    if offload == "All" and strategy != "ZeRO3":
        hint = "use ZeRO3, or `offload: Optimizer`"
        raise _unsupported(f"`distributed.offload: All` with {strategy}, which keeps weights", hint)
    if processes == 1:
        raise _unsupported("`distributed.offload` on one GPU", "ask for several GPUs")
    if spec.resources.gpus_per_node == 0:
        raise _unsupported("`distributed.offload` without GPUs", "leave it out")


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
    wanted, offload = spec.distributed.strategy, spec.distributed.offload
    if processes == 1:
        return ONE_PROCESS, []
    if wanted != AUTO:
        return Strategy(wanted, offload), []
    name, why = _auto(spec, needed, room)
    return Strategy(name), [Resolved(field="distributed.strategy", value=name, why=why)]


def _auto(spec: FineTuneJobSpec, needed: int, room: int | None) -> tuple[str, str]:
    if room is None:
        return "DDP", "each process holds the whole model; how much room it has is not known"
    need = f"the plan needs {needed / 2**30:.1f} GiB of the {room / 2**30:.1f} GiB of a GPU"
    if needed <= room:
        return "DDP", f"the whole model fits each GPU, and nothing else must be sent: {need}"
    try:
        _refuse_divided(spec, "FSDP")
    except TrainerError as error:
        return "DDP", f"{need}, but it cannot be sharded: {error.message}"
    return "FSDP", f"the whole model does not fit each GPU: {need}"


def arguments(strategy: Strategy, device: str, precision: str = "Float32") -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments`, for more than one process; golden files show them."""
    common: dict[str, Any] = {
        "ddp_timeout": COLLECTIVE_SECONDS,
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
    }
    # Without a GPU accelerate would run DDP in place of these, unless it finds its state set up.
    own_state = {"accelerator_config": {"use_configured_state": True}} if device == "cpu" else {}
    if strategy.zero:
        config = zero_config.config(strategy.name, strategy.offload, device, precision)
        # DeepSpeed itself takes care of bfloat16.
        return {**common, "bf16": False, "deepspeed": config, **own_state}
    if strategy.name != "FSDP":
        return common
    config = {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "cpu_offload": False,
        "state_dict_type": "FULL_STATE_DICT",
    }
    return {**common, "fsdp": True, "fsdp_config": config, **own_state}


def _unsupported(what: str, hint: str) -> TrainerError:
    return TrainerError(Reason.DISTRIBUTED_UNSUPPORTED, f"{what} is not supported", hint)
