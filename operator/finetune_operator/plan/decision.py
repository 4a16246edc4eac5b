"""What `decide` answers with, and the reconciler carries out."""

from dataclasses import dataclass

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.observe.facts import Pod


@dataclass(frozen=True)
class Notice:
    """A Kubernetes event to write once."""

    reason: Reason
    message: str
    attempt: int
    warning: bool = False


@dataclass(frozen=True)
class Creation:
    """An attempt to create."""

    attempt: int
    spec: FineTuneJobSpec


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
        create: The attempt to create first; the job is then looked at anew.
        notices: Events, written before the status, so that a kill in between repeats them
            under the same name and loses none.
        confirm: A final verdict is near: read everything from the API server and decide again.
        follow: The pod whose log is to be read for progress.
        ask: What to look up the warning events of.
        wake_after: Seconds until the job must be looked at again without an event.
    """

    status: FineTuneJobStatus | None = None
    create: Creation | None = None
    notices: tuple[Notice, ...] = ()
    confirm: bool = False
    follow: Pod | None = None
    ask: Subject | None = None
    wake_after: float | None = None
