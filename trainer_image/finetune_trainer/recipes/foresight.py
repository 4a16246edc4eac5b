"""What can be said of a run before there are weights or a GPU: parameters, memory, settings.

Used by `recipes.course`, in the preflight and in the run itself. The machine that a preflight means is
one GPU that computes in bfloat16, if the job asks for GPUs; what depends on it is said with that
reserve.
"""

from dataclasses import replace

from finetune_api.records import Report
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import launch, model, strategies
from finetune_trainer.memory import estimate, in_words
from finetune_trainer.recipes import passes, sparing
from finetune_trainer.recipes.recipe import Ready, Recipe
from finetune_trainer.resolve import Machine
from finetune_trainer.tuning.targets import count_parameters

FORESEEN = "a GPU that is not here yet"
_OF_THE_GPU = "resources.gpusPerNode"
_BY_THE_GPU = "training.precision"


def machine(spec: FineTuneJobSpec, *, laptop: bool) -> Machine:
    """The machine that the run will find, as far as that can be known."""
    count = launch.processes_of(spec)
    if spec.resources.gpus_per_node:
        return Machine("cuda", FORESEEN, bfloat16=True, processes=count)
    return replace(model.machine(laptop=laptop), processes=count)


def hedged(resolved: list[Resolved], machine: Machine) -> list[Resolved]:
    """The choices, with a reserve where they hang on a GPU that is only foreseen."""
    if machine.name != FORESEEN:
        return resolved
    return [_hedge(choice) for choice in resolved if choice.field != _OF_THE_GPU]


def _hedge(choice: Resolved) -> Resolved:
    if choice.field != _BY_THE_GPU:
        return choice
    return choice.model_copy(update={"why": "if the GPU computes in bfloat16; else Float32"})


def complete(recipe: Recipe, ready: Ready, room: int | None = None) -> Ready:
    """The run with parameters and memory in its plan, from the outline of the model.

    Args:
        recipe: Of the method.
        ready: The run.
        room: Bytes of a GPU, if that is known: they decide how the model is spread, and how many layers
            compute their activations again.

    Raises:
        TrainerError: TargetModulesNotFound, InvalidSpec or UnsupportedModel, as when it is loaded.
    """
    outline = recipe.outline(ready)
    trainable, total = count_parameters(outline)
    largest = passes.foreseen(ready, outline)
    count = ready.settings.processes
    whole = replace(ready.settings, strategy=strategies.whole(count))
    beside = passes.beside(ready, outline, largest)
    memory = estimate(outline, ready.config, ready.spec, whole, largest, beside)
    strategy, told = strategies.choose(ready.spec, count, needed=memory.total, room=room)
    ready = replace(ready, settings=replace(ready.settings, strategy=strategy))
    ready = replace(ready, resolved=[*ready.resolved, *told])
    ready = sparing.decide(ready, outline, room, beside)
    largest = passes.foreseen(ready, outline)
    memory = estimate(outline, ready.config, ready.spec, ready.settings, largest, beside)
    memory, host = memory.spread(strategy, count)
    found = {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "estimated_memory_bytes": memory.total,
    }
    why = f"counted, not measured: {memory}"
    if host:
        pod = host * max(1, ready.spec.resources.gpus_per_node)
        why += f"; and {in_words(pod)} of each pod's own memory"
    note = Resolved(field="plan.estimatedMemoryBytes", value=in_words(memory.total), why=why)
    plan = ready.data.plan.model_copy(update=found)
    data = replace(ready.data, plan=plan)
    return replace(ready, data=data, resolved=[*ready.resolved, note])


def report(ready: Ready) -> Report:
    """The report of a preflight that found nothing wrong."""
    plan = ready.data.plan
    size = in_words(plan.estimated_memory_bytes or 0)
    return Report(
        outcome="Complete",
        reason=Reason.PREFLIGHT_PASSED,
        message=f"{plan.rows} training rows and {plan.evaluation_rows} held out are good; "
        f"{plan.trainable_parameters} of {plan.total_parameters} parameters are trained; "
        f"about {size} of memory",
        plan=plan,
        resolved=ready.resolved,
    )
