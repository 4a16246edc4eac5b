"""One run from its file to its report: cheap checks, downloads beside imports, then the recipe.

Called by `__main__`, as is `check`, which goes the same way without weights, GPU or output. The order
is the point: what can fail in seconds fails before torch is imported.
"""

import gc
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from finetune_api.records import Report
from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import inputs, launch, libraries, processes, recipes
from finetune_trainer.context import Context
from finetune_trainer.data.load import Examples, load_once
from finetune_trainer.data.store import TokenStore
from finetune_trainer.environment import Environment
from finetune_trainer.foreign import Foreign
from finetune_trainer.output_manifest import find_published
from finetune_trainer.progress import Reporter
from finetune_trainer.resume import checkpointing
from finetune_trainer.run_input import RunInput
from finetune_trainer.sources import FoundModel
from finetune_trainer.storage import Storage

Value = TypeVar("Value")


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


def execute(
    given: RunInput, environment: Environment, reporter: Reporter, *, alone: bool = False
) -> Report:
    """Run the job; returns the report of success.

    Args:
        given: What to run.
        environment: Where things are.
        reporter: Told about phases, steps and choices.
        alone: Whether this process runs nothing else, and ends with it: then it may be
            made to suit the job, such as by shutting out libraries.

    Raises:
        TrainerError: Any failure that has a reason.
    """
    if gang := launch.gang(given, os.environ):
        return launch.launch(gang, given, environment.scratch, os.environ)
    reporter.phase("PreparingData")
    start = _Start(given, environment, reporter)
    published = find_published(start.output, given.run.job)
    if published:
        # Killed between the manifest and the report, and started again: the work is done.
        checkpointing.clear(start.output, given.run)
        return published
    found, spec = start.check(), given.run.spec
    if alone:
        libraries.shut_out(libraries.unused(spec))
    importing = RecipeImport(spec.method.type, spec.model.task)
    examples = start.examples(found)
    reporter.phase("LoadingModel")
    context = start.context(found, found.models, examples)
    recipe = importing.wait()
    if alone:
        # Of the million objects of the libraries nothing becomes garbage: look at them no more.
        gc.freeze()
    return recipe(context)


def check(
    given: RunInput, environment: Environment, reporter: Reporter, *, keep: Path | None = None
) -> Report:
    """Find out whether the job would run, as far as no GPU and no weights are needed.

    Nothing is left in the output, so that it does not count as taken.

    Args:
        given: What to check.
        environment: Where things are.
        reporter: Told about phases and choices.
        keep: Folder that gets the data contract, also one that is broken.

    Raises:
        TrainerError: Any failure that has a reason.
    """
    reporter.phase("PreparingData")
    start, spec = _Start(given, environment, reporter), given.run.spec
    find_published(start.output, given.run.job)
    found = start.check()
    examples = start.examples(found)
    models = {path: model.without_weights() for path, model in found.models.items()}
    context = start.context(found, models, examples)
    # Only now: broken rows are told without waiting for torch.
    preflight = recipes.load(spec.method.type, spec.model.task, "preflight")
    try:
        return preflight(context)
    finally:
        if keep and context.output_folder.exists():
            shutil.copytree(context.output_folder, keep, dirs_exist_ok=True)


class _Start:
    """What `execute` and `check` have in common, in parts."""

    def __init__(self, given: RunInput, environment: Environment, reporter: Reporter) -> None:
        self._given, self._run, self._reporter = given, given.run, reporter
        self._scratch, self._gang = _fresh(environment.scratch), environment.gang
        shared = self._gang.parent if self._gang else self._scratch
        self._tokens = TokenStore(shared / "tokens", self._gang)
        self._storage = Storage(self._run.spec.storage, environment)
        self.output = self._storage.place(self._run.spec.output.uri, Reason.INTERNAL_ERROR)

    def check(self) -> inputs.Inputs:
        """Every source, listed, and proof that the output can be written to."""
        found = inputs.check(self._run, self._storage, laptop=self._given.laptop)
        if processes.is_main():
            inputs.probe_output(self.output, self._run, self._scratch)
        return found

    def examples(self, found: inputs.Inputs) -> Examples:
        """The data, fetched, read and checked."""
        fetch = partial(inputs.fetch_data, found, self._scratch / "data")
        files = self._once("data", inputs.FetchedData, fetch)
        return load_once(self._gang, self._run.spec, *files)

    def context(
        self, found: inputs.Inputs, wanted: Mapping[str, FoundModel], examples: Examples
    ) -> Context:
        """What the recipe is given, once the models are fetched."""
        fetch = partial(inputs.fetch_models, wanted, self._scratch / "model")
        models = self._once("models", inputs.FetchedModels, fetch)
        return Context(
            self._run,
            models,
            found.resolved,
            examples,
            self.output,
            self._scratch,
            self._reporter,
            laptop=self._given.laptop,
            tokens=self._tokens,
        )

    def _once(self, name: str, kind: Foreign, fetch: Callable[[], Value]) -> Value:
        return processes.once_a_pod(self._gang, name, TypeAdapter(kind), fetch)


def _fresh(scratch: Path) -> Path:
    # A restarted container finds what the former one left in the pod's scratch volume.
    for name in ("data", "model", "output", "trainer", "verify", "checkpoints"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch
