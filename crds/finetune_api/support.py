"""What this version cannot do yet, though the API has a field for it.

Operator and trainer both ask `unsupported` before they start, so that such a field is refused with
reason `NotImplemented` and never ignored. A feature that is built deletes its line here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune_api.v1alpha1.job import FineTuneJobSpec


@dataclass(frozen=True)
class Unsupported:
    """A field whose behaviour is not there yet.

    Attributes:
        path: Path below `spec`, in camelCase.
        sentence: What is not there, and what to use meanwhile.
    """

    path: str
    sentence: str

    def __str__(self) -> str:
        return f"spec.{self.path}: {self.sentence}"


@dataclass(frozen=True)
class Check:
    """One thing that cannot be asked for yet: where, how it is recognised, and what to say."""

    path: str
    asked: Callable[[FineTuneJobSpec], bool]
    sentence: str


def _scheme(uri: str) -> str:
    return uri.partition("://")[0]


CHECKS: tuple[Check, ...] = (
    Check(
        "training.precision",
        lambda s: s.training.precision == "Float16",
        "Float16 needs loss scaling, which is not there yet; use BFloat16 or Float32",
    ),
    Check("training.extra", lambda s: bool(s.training.extra), "extra arguments are not read yet"),
    Check(
        "output.uri",
        lambda s: _scheme(s.output.uri) == "pvc",
        "the output goes to s3:// in this version",
    ),
    Check(
        "tracking.mlflow",
        lambda s: s.tracking is not None and s.tracking.mlflow is not None,
        "only TensorBoard files are written in this version",
    ),
    Check(
        "tracking.wandb",
        lambda s: s.tracking is not None and s.tracking.wandb is not None,
        "only TensorBoard files are written in this version",
    ),
)


def unsupported(spec: FineTuneJobSpec) -> list[Unsupported]:
    """Every field of the spec that asks for more than this version can do, in order."""
    found = [Unsupported(c.path, c.sentence) for c in CHECKS if c.asked(spec)]
    return [*found, *_unsupported_sources(spec)]


def _unsupported_sources(spec: FineTuneJobSpec) -> Iterator[Unsupported]:
    for path, source in spec.data_sources():
        if _scheme(source.source) == "job":
            yield Unsupported(f"{path}.source", "a job's output holds a model and no rows")
