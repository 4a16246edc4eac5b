"""What `decide` answers with, and the reconciler carries out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.observe.facts import Pod, Role


@dataclass(frozen=True)
class Notice:
    """A Kubernetes event to write once."""

    reason: Reason
    message: str
    attempt: int
    warning: bool = False


@dataclass(frozen=True)
class Creation:
    """A Job to create.

    Attributes:
        attempt: The number of the attempt that it belongs to.
        spec: The job's spec.
        role: What the Job is for.
        sources: Where the outputs lie that the spec names: `job://name` -> URI.
    """

    attempt: int
    spec: FineTuneJobSpec
    role: Role = Role.TRAINER
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """An object whose warning events may say why nothing goes on."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True)
class Decision:
    """The next step of a job.

    Attributes:
        status: What the status must be; None leaves it as it is.
        create: The Job to create first; the FineTuneJob is then looked at anew.
        notices: Events, written before the status, so that a kill in between repeats them
            under the same name and loses none.
        confirm: A final verdict is near: read everything from the API server and decide again.
        follow: The pod whose log is to be read for progress.
        ask: What to look up the warning events of.
        wake_after: Seconds until the job must be looked at again without an event; 0 for at once.
    """

    status: FineTuneJobStatus | None = None
    create: Creation | None = None
    notices: tuple[Notice, ...] = ()
    confirm: bool = False
    follow: Pod | None = None
    ask: Subject | None = None
    wake_after: float | None = None
