"""Models that a run reads, whatever they are: a model, another job's output, an adapter on an adapter.

`inputs` finds every model of a spec by its URI, cheaply and before anything big is fetched, and then
fetches it; `model` loads the `ModelSource` that comes out. Nothing here knows torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_api.v1alpha1.tuning import Quantization
from finetune_trainer import model_files, published
from finetune_trainer.errors import TrainerError
from finetune_trainer.published import Published
from finetune_trainer.selection import Selection
from finetune_trainer.storage import Storage

MAX_CHAIN = 8
"""Adapters upon adapters that are followed."""
WEIGHTS = ".safetensors"
MERGED = "merged"
"""Folder of merged weights in an output."""


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine, ready to be loaded by `model.load_model`.

    Attributes:
        uri: What the user calls it, for messages.
        identity: The same without anything that can move: the root of the output, the hub's commit.
            This is what a manifest names as the base.
        folder: The whole model: configuration and weights.
        adapters: Folders of adapters that are merged into it, the first trained first.
        tokenizer_folder: Where the tokenizer and its chat template lie.
        digest: Digest of the manifest, if this is an output.
        labels: Names of the classes, by number, if the output has any.
        quantization: How the base was held when the last adapter was trained; None for plain weights.
        chain: Identities from this model down to the whole model under its adapters.
    """

    uri: str
    identity: str
    folder: Path
    adapters: tuple[Path, ...] = ()
    tokenizer_folder: Path | None = None
    digest: str | None = None
    labels: tuple[str, ...] = ()
    quantization: Quantization | None = None
    chain: tuple[str, ...] = ()

    @classmethod
    def of_folder(cls, folder: Path, uri: str) -> "ModelSource":
        """A whole model in a folder."""
        return cls(uri, uri, folder, tokenizer_folder=folder)

    @property
    def tokenizer(self) -> Path:
        """The folder that the tokenizer is loaded from."""
        return self.tokenizer_folder or self.folder

    def without_last_adapter(self) -> "ModelSource":
        """What the last adapter was trained on; itself if there is none."""
        return replace(self, adapters=self.adapters[:-1]) if self.adapters else self


@dataclass(frozen=True)
class FoundModel:
    """A model that was found and looked at, and is still to be fetched.

    Attributes:
        uri: As in the spec.
        identity: As in `ModelSource`.
        why: What the identity is, for people.
        base: Files of the whole model.
        adapters: Files of each adapter, the first trained first.
        output: The output that this is, or None.
        below: Identities of the models that its adapters lie on, the whole model last.
    """

    uri: str
    identity: str
    why: str
    base: Selection
    adapters: tuple[Selection, ...] = ()
    output: Published | None = None
    below: tuple[str, ...] = ()

    @property
    def chain(self) -> tuple[str, ...]:
        """Its identity, and those of all that it lies on."""
        return (self.identity, *self.below)

    def without_weights(self) -> "FoundModel":
        """The same with configuration and tokenizer alone, which is small."""
        adapters = tuple(each.without(WEIGHTS) for each in self.adapters)
        return replace(self, base=self.base.without(WEIGHTS), adapters=adapters)

    def fetch(self, folder: Path) -> ModelSource:
        """Make the model readable locally.

        Raises:
            TrainerError: CorruptModel if a file does not have the digest of its manifest.
        """
        base = self.base.fetch(folder / "base")
        adapters = tuple(
            each.fetch(folder / f"adapter-{number}") for number, each in enumerate(self.adapters)
        )
        return ModelSource(
            uri=self.uri,
            identity=self.identity,
            folder=base,
            adapters=adapters,
            tokenizer_folder=adapters[-1] if adapters else base,
            digest=self.output.digest if self.output else None,
            labels=tuple(self.output.manifest.labels or ()) if self.output else (),
            quantization=self.output.manifest.quantization if self.output else None,
            chain=self.chain,
        )

    def resolved(self, field: str) -> list[Resolved]:
        """What the URI of this field turned out to be, if that is not the URI itself."""
        if self.identity == self.uri.rstrip("/"):
            return []
        return [Resolved(field=field, value=self.identity[:256], why=self.why)]


class Finder:
    """Finds models by URI.

    Args:
        storage: The stores of this run.
        jobs: Root of the output of each other job, by its `job://` URI.
        local: Whether `file://` may be followed when a manifest names it.
        merged: Whether to take an output's merged weights, if it has any, and not its adapter.
    """

    def __init__(
        self, storage: Storage, jobs: Mapping[str, str], *, local: bool, merged: bool = True
    ) -> None:
        self._merged = merged
        self._storage = storage
        self._jobs = jobs
        self._local = local

    def model(self, uri: str) -> FoundModel:
        """What lies at a URI, looked at in full but for its weights.

        Raises:
            TrainerError: A storage or hub reason, or what `model_files` and `published` refuse.
        """
        return self._follow(uri, ())

    def locate(self, uri: str) -> str:
        """The URI that can be opened: that of the output for `job://`, any other as it is.

        Raises:
            TrainerError: InvalidSpec if nobody said where the job's output lies.
        """
        uri = uri.rstrip("/")
        if not uri.startswith("job://"):
            return uri
        if uri not in self._jobs:
            message = f"{uri}: only a cluster knows where a job's output lies"
            hint = "On a laptop, name the output itself: the `output.uri` of that job."
            raise TrainerError(Reason.INVALID_SPEC, message, hint)
        return self._jobs[uri].rstrip("/")

    def _follow(self, uri: str, above: tuple[str, ...]) -> FoundModel:
        root = self.locate(uri)
        place = self._storage.source(root, Reason.MODEL_NOT_FOUND)
        listing = place.files()
        output = published.find(self._storage, place, listing)
        if output:
            return self._of_output(uri, output, above)
        if uri.startswith("job://"):
            message = f"{uri}: its output at {root} has no manifest: nothing was published there"
            raise TrainerError(Reason.MODEL_NOT_FOUND, message)
        whole = Selection(place, model_files.choose(place, listing))
        return FoundModel(uri, place.identity, "what it stood for when the run began", whole)

    def _of_output(self, uri: str, output: Published, above: tuple[str, ...]) -> FoundModel:
        identity, job = output.root.uri, output.manifest.job
        why = f"the output of job {job.namespace}/{job.name}"
        # What lies on this output was trained on its merged weights.
        wanted = self._merged or above
        has_merged = output.has(f"{MERGED}/{model_files.CONFIG}")
        files = output.folder(MERGED) if wanted and has_merged else output.files
        if any(file.name == model_files.CONFIG for file in files.files):
            chosen = model_files.choose(files.place, files.files)
            whole = Selection(files.place, chosen, files.digests)
            return FoundModel(uri, identity, why, whole, output=output)
        adapter = model_files.choose_adapter(files.place, files.files)
        base = self._follow(self._base_of(output), _longer(above, identity))
        _require_same(base, output)
        return replace(
            base,
            uri=uri,
            identity=identity,
            why=f"{why}, an adapter on {base.identity}",
            adapters=(*base.adapters, Selection(files.place, adapter, files.digests)),
            output=output,
            below=base.chain,
        )

    def _base_of(self, output: Published) -> str:
        base = output.manifest.base_model
        if base.startswith("file://") and not self._local:
            message = f"{output.root.uri} is an adapter on {base}, which lies on another machine"
            hint = "Publish that model to a store, and train the adapter from there."
            raise TrainerError(Reason.MODEL_NOT_FOUND, message, hint)
        return base


def _require_same(base: FoundModel, output: Published) -> None:
    expected = output.manifest.base_manifest_digest
    if expected is not None and (base.output is None or base.output.digest != expected):
        message = (
            f"{output.root.uri} was trained on another model than lies at {base.identity} now: "
            "its manifest has another digest"
        )
        hint = "Put the former output back, or train the adapter again."
        raise TrainerError(Reason.CORRUPT_MODEL, message, hint)


def _longer(chain: tuple[str, ...], adapter: str) -> tuple[str, ...]:
    longer = (*chain, adapter)
    if adapter in chain:
        what = "leads back to itself"
    elif len(longer) > MAX_CHAIN:
        what = f"is longer than {MAX_CHAIN}"
    else:
        return longer
    message = f"{longer[0]}: the chain of adapters {what}: {' on '.join(longer)}"
    raise TrainerError(Reason.CORRUPT_MODEL, message[:1900])
