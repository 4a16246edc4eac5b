"""`finetune-trainer evaluate`: the held-out figures of an output, measured again from what it holds.

Called by `__main__`. The run file in the output says what was measured, at the commits and outputs
that it was resolved to; the course of a run is followed up to its measurements, before and after.
"""

import io
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TextIO

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Evaluation
from finetune_trainer import inputs, recipes
from finetune_trainer.commands.output import Workplace
from finetune_trainer.context import Context
from finetune_trainer.data.load import load as load_data
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.opening import load_source
from finetune_trainer.progress import MachineSink, Reporter
from finetune_trainer.published import Published
from finetune_trainer.recipes import course
from finetune_trainer.recipes.recipe import Ready, Recipe
from finetune_trainer.recipes.session import Session, compared, load
from finetune_trainer.save import RUN_FILE
from finetune_trainer.sources import FoundModel, ModelSource
from finetune_trainer.watch import Measures

# Published figures have four decimals; bfloat16 has three digits, and other machines other sums.
TOLERANCES = {"Float32": 1e-3, "BFloat16": 2e-2}


@dataclass(frozen=True)
class Line:
    """One figure: as published and as measured again, before and after training."""

    name: str
    published: tuple[float, float]
    again: tuple[float, float]
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether both differ by no more than the tolerance, relative above 1."""
        return all(
            abs(old - new) <= self.tolerance * max(1.0, abs(old))
            for old, new in zip(self.published, self.again, strict=True)
        )

    def __str__(self) -> str:
        figures = [f"{each:12.4f}" for each in (*self.published, *self.again)]
        return f"{self.name:24}{''.join(figures)}  {'same' if self.agrees else 'DIFFERS'}"


def run(found: FoundModel, place: Workplace, stream: TextIO) -> None:
    """Measure again and compare.

    Raises:
        TrainerError: OutputVerificationFailed if a figure differs; or why it cannot be measured.
    """
    published, evaluation = _evaluated(found)
    given = pinned(_run_file(published), published)
    recipe = recipes.recipe_of(given.spec.method.type, given.spec.model.task)
    ready = course.prepare(recipe, _context(given, place))
    net = load(recipe, ready)
    before = _measure(recipe, ready, net)
    trained = _trained(recipe, ready, place.fetch(found))
    again = compared(before, _measure(recipe, replace(ready, before=net), trained))
    lines = compare(evaluation, again, TOLERANCES[ready.settings.precision])
    heads = [f"{head:>12}" for head in ("before", "after", "again", "again")]
    print(f"{'':24}{''.join(heads)}", *lines, sep="\n", file=stream, flush=True)
    wrong = [line.name for line in lines if not line.agrees]
    if wrong:
        message = f"{found.uri}: {', '.join(wrong)} came out otherwise than published"
        hint = "Compare the versions in the manifest with `finetune-trainer version`."
        raise TrainerError(Reason.OUTPUT_VERIFICATION_FAILED, message, hint)


def pinned(given: RunFile, published: Published) -> RunFile:
    """The run file with every source at the commit or output that the run found it at."""
    document, uris = given.to_dict(), dict(given.spec.input_uris())
    for choice in published.manifest.resolved:
        if choice.field in uris:
            _set(document["spec"], choice.field, choice.value)
    return RunFile.model_validate(document)


def compare(published: Evaluation, again: Evaluation | None, tolerance: float) -> list[Line]:
    """The figures side by side, those that were published.

    Raises:
        TrainerError: InternalError if nothing was measured.
    """
    old, new = _figures(published), _figures(again) if again else {}
    if not old.keys() <= new.keys():
        missing = ", ".join(sorted(old.keys() - new.keys()))
        raise TrainerError(Reason.INTERNAL_ERROR, f"not measured any more: {missing}")
    return [Line(name, old[name], new[name], tolerance) for name in old]


def _evaluated(found: FoundModel) -> tuple[Published, Evaluation]:
    uri = found.uri
    if found.output is None:
        message = f"{uri} is no output of a job: there is no manifest"
        raise TrainerError(Reason.MODEL_NOT_FOUND, message)
    if found.output.manifest.evaluation is None:
        message = f"{uri}: the job had no held-out rows, so there are no figures to repeat"
        raise TrainerError(Reason.DATA_NOT_FOUND, message, "Set `data.evaluation` in the job.")
    return found.output, found.output.manifest.evaluation


def _run_file(published: Published) -> RunFile:
    content = published.read(RUN_FILE)
    if content is None:
        message = f"{published.root.uri} holds no {RUN_FILE}: it was published by an older version"
        raise TrainerError(Reason.NOT_IMPLEMENTED, message)
    return RunFile.model_validate_json(content)


def _context(given: RunFile, place: Workplace) -> Context:
    scratch = place.environment.scratch
    found = inputs.check(given, place.storage, laptop=True)
    return Context(
        run=given,
        models=inputs.fetch_models(found.models, scratch / "inputs"),
        resolved=found.resolved,
        examples=load_data(given.spec, *inputs.fetch_data(found, scratch / "data")),
        output=place.storage.place(given.spec.output.uri, Reason.INTERNAL_ERROR),
        scratch=scratch,
        # There is nobody to report to.
        reporter=Reporter(MachineSink(io.StringIO()), 600),
        laptop=True,
    )


def _trained(recipe: Recipe, ready: Ready, tuned: ModelSource) -> Model:
    """The model as it was published."""
    settings, head = ready.settings, recipe.head(ready.spec)
    place = (settings.weights, settings.device)
    net, _ = load_source(tuned, head, *place, merged=False, scratch=ready.context.scratch)
    # A trainer needs something to train; it is built for its figures alone.
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return net


def _measure(recipe: Recipe, ready: Ready, net: Model) -> Measures:
    """The held-out figures of a model."""
    with closing(Session(recipe, ready, net)) as session:
        return session.measure()


def _figures(evaluation: Evaluation) -> dict[str, tuple[float, float]]:
    found = {}
    if evaluation.loss_before is not None and evaluation.loss_after is not None:
        found["loss"] = float(evaluation.loss_before), float(evaluation.loss_after)
    for metric in evaluation.metrics or ():
        if metric.before is not None and metric.after is not None:
            found[metric.name] = float(metric.before), float(metric.after)
    return found


def _set(target: Any, path: str, value: str) -> None:  # noqa: ANN401 - JSON
    """Set a field such as `data.train[0].source`."""
    *parents, last = path.replace("[", ".").replace("]", "").split(".")
    for part in parents:
        target = target[int(part)] if part.isdigit() else target[part]
    target[last] = value
