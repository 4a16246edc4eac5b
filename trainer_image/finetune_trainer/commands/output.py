"""The output that a command is asked about: found by its URI, fetched, loaded.

Used by every command. A plain model may stand in its place, to compare with.
"""

import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.v1alpha1.output import Storage as StorageSpec
from finetune_trainer import environment as environments
from finetune_trainer.environment import Environment
from finetune_trainer.foreign import Model, Tokenizer
from finetune_trainer.sources import Finder, FoundModel, ModelSource
from finetune_trainer.storage import Storage


@dataclass(frozen=True)
class Stores:
    """Where outputs lie, by the flags of a command.

    Attributes:
        endpoint: URL of the S3-compatible store; None for the shell's, or AWS.
        region: Region; None for the shell's.
        ca_bundle: File with certificates of authority.
    """

    endpoint: str | None = None
    region: str | None = None
    ca_bundle: Path | None = None

    def spec(self, variables: Mapping[str, str]) -> StorageSpec:
        """The same as a job would say it."""
        shell_endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
        shell_region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
        return StorageSpec(
            endpoint=self.endpoint or shell_endpoint or None,
            region=self.region or shell_region or None,
        )


@dataclass(frozen=True)
class Workplace:
    """What a command works with.

    Attributes:
        environment: With a scratch folder that goes when the command ends.
        storage: The stores.
    """

    environment: Environment
    storage: Storage

    def find(self, uri: str) -> FoundModel:
        """The output (or plain model) at a URI, or at a path of this machine.

        Of an output with merged weights it is the adapter, which is what was evaluated.

        Raises:
            TrainerError: Why it cannot be had.
        """
        return Finder(self.storage, {}, local=True, merged=False).model(as_uri(uri))

    def fetch(self, found: FoundModel) -> ModelSource:
        """Make it readable locally."""
        return found.fetch(self.environment.scratch / "model")


@contextmanager
def workplace(stores: Stores, variables: MutableMapping[str, str]) -> Iterator[Workplace]:
    """A workplace for one command; what was downloaded goes with it."""
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        environments.prepare_libraries(variables, Path(scratch))
        given = environments.read(variables, Path(scratch))
        ca_bundle = stores.ca_bundle or given.ca_bundle
        given = replace(given, scratch=Path(scratch), ca_bundle=ca_bundle)
        yield Workplace(given, Storage(stores.spec(variables), given))


def as_uri(text: str) -> str:
    """A URI; a path of this machine becomes one."""
    return text.rstrip("/") if "://" in text else f"file://{Path(text).resolve()}"


def load(place: Workplace, found: FoundModel) -> tuple[Model, Tokenizer]:
    """The model as it was verified, on the device that there is, and its tokenizer."""
    import torch

    from finetune_trainer.model import machine, stored_dtype
    from finetune_trainer.opening import head_of, load_source

    source = place.fetch(found)
    device = machine(laptop=True).device
    halved = device == "cuda" and stored_dtype(source.folder) is torch.bfloat16
    precision = "BFloat16" if halved else "Float32"
    head = head_of(found.output.manifest if found.output else None)
    scratch = place.environment.scratch
    return load_source(source, head, precision, device, merged=False, scratch=scratch)
