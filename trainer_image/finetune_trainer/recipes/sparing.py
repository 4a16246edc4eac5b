"""`training.gradientCheckpointing: Auto`: as many layers compute their activations again as must.

Called by `recipes.foresight` with the outline of the model, and by `recipes.session` to install what was
decided. The count is `recomputation.plan`'s; here is what it is given, and where it is not asked.
"""

from dataclasses import replace

from finetune_api.meta import AUTO
from finetune_api.quantities import amount
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.errors import TrainerError
from finetune_trainer.fast import choice, head, recompute
from finetune_trainer.foreign import Model
from finetune_trainer.memory import estimate, in_words, of_layers
from finetune_trainer.recipes import passes
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.recomputation import USED, LayerMemory, Recomputation, plan
from finetune_trainer.resolve import Settings
from finetune_trainer.writing import NOTHING, Beside

FIELD = "training.gradientCheckpointing"


def decide(ready: Ready, outline: Model, gpu: int | None, beside: Beside = NOTHING) -> Ready:
    """The run with its plan; as it was where there is nothing to decide.

    Args:
        ready: The run, with its strategy.
        outline: The model with its adapter, on the meta device.
        gpu: Bytes of a GPU, if that is known.
        beside: What is taken beside passes of training.
    """
    spec, settings = ready.spec, ready.settings
    if spec.training.gradient_checkpointing == "Offload":
        return _offloaded(ready, outline)
    room = gpu if settings.device == "cuda" else _of_the_pod(spec)
    if room is None or not _may_plan(ready):
        return ready
    if against := _against(ready, outline):
        return _told(ready, None, f"every layer: {against}")
    largest = passes.foreseen(ready, outline)
    layers = of_layers(outline, ready.config, spec, settings, largest, beside)
    whole = estimate(outline, ready.config, spec, settings, largest, beside)
    whole, _ = whole.spread(settings.strategy, settings.processes)
    # The recomputing layers of FSDP and ZeRO keep their inputs where they are.
    offload = settings.device == "cuda" and not settings.strategy.parts
    usable, rest = (
        round(USED * room),
        whole.total - whole.activations - whole.logits - whole.answers,
    )
    planned = plan(layers, usable - rest, offload=offload)
    return _told(ready, planned, _why(layers, planned, usable, rest))


def install(ready: Ready, net: Model) -> None:
    """Keep the loaded model to its plan."""
    if ready.settings.recomputation:
        recompute.install(net, ready.settings.recomputation)


def proved(ready: Ready, net: Model) -> Ready:
    """The run once its fast paths were tried: every layer, where rows are padded against the plan."""
    foreseen = head.why_not(net) is None and choice.against_flat(ready, net) is None
    supervised = (ready.spec.method.type, ready.spec.model.task) == ("SFT", "text-generation")
    if ready.flat or not (supervised and foreseen and _may_plan(ready)):
        return ready
    planned = ready.settings.recomputation
    kept = planned if planned and planned.offload else None
    return _told(ready, kept, "every layer: the plan was made for rows without padding")


def replanned(ready: Ready, before: Settings) -> Ready:
    """The run with other passes than those that were planned for: every layer, where any did."""
    planned = before.recomputation
    if planned and planned.offload:
        return _told(ready, planned, "as planned, though passes are others")
    if ready.settings.gradient_checkpointing or not before.gradient_checkpointing:
        return ready
    return _told(ready, None, "every layer: passes are others than the plan was made for")


def _offloaded(ready: Ready, outline: Model) -> Ready:
    """What the spec demands, for as many layers as there are."""
    if against := recompute.why_not(outline):
        message = f"`{FIELD}: Offload`: {against}"
        raise TrainerError(Reason.UNSUPPORTED_COMBINATION, message, "Set it to Enabled.")
    largest = passes.foreseen(ready, outline)
    layers = of_layers(outline, ready.config, ready.spec, ready.settings, largest)
    planned = Recomputation(layers.layers, layers.layers, offload=True)
    return _told(ready, planned, f"demanded; {_waiting(layers)}")


def _waiting(layers: LayerMemory) -> str:
    size = in_words(layers.layers * layers.block_input)
    return f"inputs of layers wait in {size} of the pod's own memory"


def _of_the_pod(spec: FineTuneJobSpec) -> int | None:
    limit = spec.resources.memory
    # On a laptop, processes on the CPU stand for GPUs, and share what there is.
    return int(amount(limit)) // max(1, spec.resources.gpus_per_node) if limit else None


def _may_plan(ready: Ready) -> bool:
    """Whether the choice is open, and there is a limit to choose by."""
    spec, cpu = ready.spec, ready.settings.device == "cpu"
    if spec.training.gradient_checkpointing != AUTO or spec.tuning.type == "PrefixTuning":
        return False
    return not cpu or _of_the_pod(spec) is not None


def _against(ready: Ready, outline: Model) -> str | None:
    if ready.context.run.micro_batch_divisor > 1:
        return "memory ran out in an earlier attempt"
    return recompute.why_not(outline)


def _why(layers: LayerMemory, planned: Recomputation, usable: int, rest: int) -> str:
    kept, given = in_words(layers.kept), in_words(layers.block_input)
    needed = rest + layers.total(planned.layers, offload=planned.offload)
    why = (
        f"a layer keeps {kept}, or {given} where it computes the rest again; beside {in_words(rest)} for all "
        f"else, that makes {in_words(needed)} of the {in_words(usable)} that may be used"
    )
    why = why if needed <= usable else f"{why}: more than there is"
    return f"{why}; {_waiting(layers)}" if planned.offload else why


def _told(ready: Ready, planned: Recomputation | None, why: str) -> Ready:
    layers = planned.layers if planned else 1
    partial = planned if planned and (0 < planned.layers < planned.of or planned.offload) else None
    kept = [each for each in ready.resolved if each.field != FIELD]
    note = Resolved(field=FIELD, value=str(planned or "Enabled"), why=why)
    settings = replace(ready.settings, gradient_checkpointing=layers > 0, recomputation=partial)
    return replace(ready, settings=settings, resolved=[*kept, note])
