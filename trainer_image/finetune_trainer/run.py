"""One run from its file to its report: cheap checks, downloads beside imports, then the recipe.

Called by `__main__`. The order is the point: what can fail in seconds fails before torch is imported.
"""

import shutil
import threading
from pathlib import Path

from finetune_api.records import Report
from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import inputs, recipes
from finetune_trainer.context import Context
from finetune_trainer.data.load import load
from finetune_trainer.environment import Environment
from finetune_trainer.output_manifest import find_published
from finetune_trainer.progress import Reporter
from finetune_trainer.run_input import RunInput
from finetune_trainer.storage import Storage


class RecipeImport:
    """Imports a recipe, and with it torch and its family, in a thread."""

    def __init__(self, method: MethodType, task: Task) -> None:
        self._wanted = method, task
        self._recipe: recipes.Run | None = None
        self._error: BaseException | None = None
        # A daemon, because nothing may keep a stopped run from ending.
        self._thread = threading.Thread(target=self._import, name="imports", daemon=True)
        self._thread.start()

    def wait(self) -> recipes.Run:
        """The recipe, once it is there; raises what its import raised."""
        self._thread.join()
        if self._recipe is None:
            raise self._error or RuntimeError("the import thread ended without a result")
        return self._recipe

    def _import(self) -> None:
        try:
            self._recipe = recipes.load(*self._wanted)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            self._error = error


def execute(given: RunInput, environment: Environment, reporter: Reporter) -> Report:
    """Run the job; returns the report of success.

    Raises:
        TrainerError: Any failure that has a reason.
    """
    run, scratch = given.run, _fresh(environment.scratch)
    reporter.phase("PreparingData")
    storage = Storage(run.spec.storage, environment)
    output = storage.place(run.spec.output.uri, Reason.INTERNAL_ERROR)
    published = find_published(output, run.job)
    if published:
        # Killed between the manifest and the report, and started again: the work is done.
        return published
    found = inputs.check(run, storage, laptop=given.laptop)
    inputs.probe_output(output, run, scratch)
    importing = RecipeImport(run.spec.method.type, run.spec.model.task)
    examples = load(run.spec, *inputs.fetch_data(found, scratch / "data"))
    reporter.phase("LoadingModel")
    models = inputs.fetch_models(found.models, scratch / "model")
    context = Context(
        run, models, found.resolved, examples, output, scratch, reporter, laptop=given.laptop
    )
    return importing.wait()(context)


def _fresh(scratch: Path) -> Path:
    # A restarted container finds what the former one left in the pod's scratch volume.
    for name in ("data", "model", "output", "trainer", "verify"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch
