"""What is known of one FineTuneJob and its children, as frozen values.

Made by `observe.jobs` and `observe.pods` from watch events and reads, kept by the store, and read by
`plan.decide`. Only what a decision needs is kept, since thousands of jobs lie in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Self

from finetune_api.v1alpha1.reasons import ConditionType
from finetune_api.v1alpha1.status import (
    Attempt,
    CheckpointStatus,
    FineTuneJobStatus,
    Plan,
    Progress,
    Resolved,
)

# States of an attempt that has ended; the next one has the next number.
OVER = ("Succeeded", "Failed", "Stopped")


class Key(NamedTuple):
    """Namespace and name of a FineTuneJob."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Role(StrEnum):
    """What a child Job of an attempt is for. The trainer's has no suffix in its name."""

    TRAINER = "trainer"
    PREFLIGHT = "preflight"

    @property
    def suffix(self) -> str:
        """What the name of such a Job ends with."""
        return "" if self is Role.TRAINER else f"-{self.value}"


@dataclass(frozen=True)
class JobFacts:
    """A FineTuneJob.

    The spec of an ended one is left out, for nothing reads it any more, but for where its output
    lies: other jobs may read that.

    Attributes:
        reads: Names of the jobs whose output the spec names as a source.
        output_uri: `spec.output.uri`.
        ttl_seconds: `spec.runPolicy.ttlSecondsAfterFinished`.
    """

    key: Key
    uid: str
    generation: int
    resource_version: int
    spec: Mapping[str, Any]
    status: FineTuneJobStatus
    deleting: bool = False
    reads: tuple[str, ...] = ()
    output_uri: str = ""
    ttl_seconds: int | None = None

    @property
    def name(self) -> str:
        """Its name, as children have one."""
        return self.key.name

    @property
    def ended(self) -> bool:
        """Whether a final condition stands."""
        return is_final(self.status)

    @property
    def complete(self) -> bool:
        """Whether it has ended with an output."""
        return holds(self.status, ConditionType.COMPLETE)

    @property
    def suspend(self) -> bool:
        """Whether the user wants it to hold no resources."""
        return self.spec.get("suspend") is True

    @property
    def latest(self) -> Attempt | None:
        """The newest attempt that the status knows of."""
        return max(self.status.attempts or (), key=lambda each: each.number, default=None)

    @property
    def between_attempts(self) -> bool:
        """Whether the newest attempt has ended, so that the next one is still to come."""
        return self.latest is not None and self.latest.state in OVER

    @property
    def attempt_number(self) -> int:
        """Number of the attempt that goes on, or of the one to come."""
        return (self.latest.number if self.latest else 1) + self.between_attempts

    @property
    def awaits(self) -> tuple[str, ...]:
        """Names of the jobs that it cannot go on without: none while an attempt's trainers are there."""
        latest = self.latest
        preparing = latest is None or latest.job.endswith(Role.PREFLIGHT.suffix)
        return self.reads if (preparing or self.between_attempts) and not self.ended else ()


def is_final(status: FineTuneJobStatus) -> bool:
    """Whether Complete or Failed is True: such a status is never changed again."""
    return holds(status, ConditionType.COMPLETE, ConditionType.FAILED)


def holds(status: FineTuneJobStatus, *kinds: ConditionType) -> bool:
    """Whether one of these conditions is True."""
    return any(c.type in kinds and c.status == "True" for c in status.conditions or ())


@dataclass(frozen=True)
class Outcome:
    """A condition of a child Job that is True."""

    reason: str
    message: str
    time: datetime | None


@dataclass(frozen=True)
class Owner:
    """The controlling owner of a child."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True)
class ChildJob:
    """A batch Job of an attempt.

    Attributes:
        suspended: Whether its pods are kept away, as a queue does until it admits the Job.
    """

    key: Key
    name: str
    uid: str
    resource_version: int
    owner: Owner | None
    attempt: int
    created: datetime | None = None
    deleting: bool = False
    complete: Outcome | None = None
    failed: Outcome | None = None
    suspended: bool = False

    @property
    def finished(self) -> bool:
        """Whether it has ended by itself."""
        return self.complete is not None or self.failed is not None

    def is_of(self, job: JobFacts) -> bool:
        """Whether this FineTuneJob made it, and no namesake or stranger."""
        return self.owner is not None and self.owner.uid == job.uid


@dataclass(frozen=True)
class Ended:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str
    finished: datetime | None = None


@dataclass(frozen=True)
class Pod:
    """A trainer pod.

    Attributes:
        deletion: When it was, or will be, killed after a deletion request; None without a request.
        unschedulable: The scheduler's message, if it found no node.
        scheduled: When it got its node; None before.
        waiting: Reason and message of a trainer container that does not run yet.
        disruption: What Kubernetes said when it told the pod to go.
        job: Name of its Job.
    """

    key: Key
    name: str
    uid: str
    resource_version: int
    job_uid: str
    index: int
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    node: str | None = None
    created: datetime | None = None
    deletion: datetime | None = None
    unschedulable: str | None = None
    scheduled: datetime | None = None
    waiting: tuple[str, str] | None = None
    running: bool = False
    ended: Ended | None = None
    disruption: str | None = None
    job: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended and will not run again."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True)
class Tail:
    """What the end of a pod's log says.

    Attributes:
        silent_seconds: For how long successive reads of this pod's log have shown the same progress.
    """

    progress: Progress | None = None
    resolved: tuple[Resolved, ...] | None = None
    plan: Plan | None = None
    checkpoint: CheckpointStatus | None = None
    resumed: CheckpointStatus | None = None
    lines: tuple[str, ...] = ()
    silent_seconds: float = 0


@dataclass(frozen=True)
class Facts:
    """All that one decision is made from.

    Attributes:
        child: The Job of the present attempt's trainers, or what stands in its place.
        pods: The pods of this child, by index.
        preflight: The Job that checks the input before, or what stands in its place.
        preflight_pods: The pods of that one.
        older: Jobs of former attempts that are not wanted any more: they have not ended by
            themselves, or the status no longer lists them.
        older_pods: Pods of former attempts, between two attempts.
        sources: The jobs that this one waits for, those that they wait for, and so on, by name.
        obstacle: What keeps the job from going on, in the words of the API server or of a
            component's event; None if nothing is known.
        confirmed: Whether the facts were just read from the API server, not from the store.
    """

    job: JobFacts
    child: ChildJob | None = None
    pods: tuple[Pod, ...] = ()
    preflight: ChildJob | None = None
    preflight_pods: tuple[Pod, ...] = ()
    older: tuple[ChildJob, ...] = ()
    older_pods: tuple[Pod, ...] = ()
    sources: Mapping[str, JobFacts] = field(default_factory=dict)
    tail: Tail = field(default_factory=Tail)
    obstacle: str | None = None
    confirmed: bool = False

    def at(self, role: Role) -> Self:
        """The same with the Job of this role, and its pods, as the child."""
        if role is Role.TRAINER:
            return self
        return replace(self, child=self.preflight, pods=self.preflight_pods)
