"""What `decide` answers with, and the reconciler carries out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.observe.facts import ChildJob, Pod, Role

SHORTEST_GRACE = 30


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
        micro_batch_divisor: By how much the micro-batch is made smaller.
        grace_seconds: Time to save, where the spec leaves it to us.
        deadline_seconds: What is left of `activeDeadlineSeconds`; None for the spec's own.
    """

    attempt: int
    spec: FineTuneJobSpec
    role: Role = Role.TRAINER
    sources: Mapping[str, str] = field(default_factory=dict)
    micro_batch_divisor: int = 1
    grace_seconds: int = SHORTEST_GRACE
    deadline_seconds: int | None = None


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
        stop: The Job to delete first, pods and all, for its attempt has ended in the status.
        remove: The job has ended, and its time to stay is over: delete it.
        notices: Events, written before the status, so that a kill in between repeats them
            under the same name and loses none.
        confirm: A final verdict is near: read everything from the API server and decide again.
        follow: The pod whose log is to be read for progress.
        ask: What to look up the warning events of.
        wake_after: Seconds until the job must be looked at again without an event; 0 for at once.
    """

    status: FineTuneJobStatus | None = None
    create: Creation | None = None
    stop: ChildJob | None = None
    remove: bool = False
    notices: tuple[Notice, ...] = ()
    confirm: bool = False
    follow: Pod | None = None
    ask: Subject | None = None
    wake_after: float | None = None
