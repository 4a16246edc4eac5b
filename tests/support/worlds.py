"""A cluster of a few objects for the state machine alone: decisions are carried out at once.

Time is a number that tests set. The Job controller and the kubelet are the test itself: it says how
a Job ends. For unit tests; cluster tests have the real ones.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import FineTuneJobStatus, Progress
from finetune_operator.observe.facts import ChildJob, Facts, Key, Pod, Role, Tail
from finetune_operator.plan import names
from finetune_operator.plan.decide import decide
from finetune_operator.plan.decision import Creation, Notice
from finetune_operator.store import Store
from support.cluster_objects import Object, child, failed_report, job, pod

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Key("default", "demo")
MAX_PASSES = 20


class World:
    """One job, its children, and an operator that does what `decide` says."""

    def __init__(self, changes: Object | None = None) -> None:
        self.changes: Object = dict(changes or {})
        self.now = START
        self.status = FineTuneJobStatus()
        self.jobs: dict[str, ChildJob] = {}
        self.pods: dict[str, Pod] = {}
        self.tail = Tail()
        self.created: list[Creation] = []
        self.stopped: list[str] = []
        self.notices: list[Notice] = []
        self.wake_after: float | None = None
        self.removed = False

    # -- the operator --------------------------------------------------------------------------------

    def facts(self, *, confirmed: bool = False) -> Facts:
        store = Store()
        store.jobs.put(job(self.changes, self.status.to_dict()))
        for each in self.jobs.values():
            store.children.put(each)
        for each in self.pods.values():
            store.pods.put(each)
        found = store.facts(KEY, confirmed=confirmed)
        assert found is not None
        current = found.child is not None and found.child.attempt == found.job.attempt_number
        return Facts(**{**vars(found), "tail": self.tail if current else Tail()})

    def settle(self, lives: int = 10**6) -> None:
        """Decide and carry out until nothing is left to do now, or until so many writes were done."""
        confirmed = False
        for _ in range(MAX_PASSES):
            decision = decide(self.facts(confirmed=confirmed), self.now)
            confirmed = decision.confirm
            if decision.confirm:
                continue
            self.removed = self.removed or decision.remove
            before = self._writes()
            if decision.stop:
                self._stop(decision.stop)
            elif decision.create:
                self._create(decision.create)
            else:
                self.notices += [each for each in decision.notices if each not in self.notices]
                self.wake_after = decision.wake_after
                changed = decision.status is not None and decision.status != self.status
                self.status = decision.status or self.status
                if not changed:
                    return
            lives -= self._writes() - before or 1
            if lives <= 0:
                return
        raise AssertionError("the state machine does not settle")

    def _writes(self) -> int:
        return len(self.created) + len(self.stopped)

    def _create(self, creation: Creation) -> None:
        name = names.job_name("demo", creation.attempt, creation.role)
        assert name not in self.jobs, name
        self.created.append(creation)
        queued = bool(creation.spec.scheduling.queue_name) and creation.role is Role.TRAINER
        found = child(name=name, uid=name, creationTimestamp=text(self.now))
        self.jobs[name] = ChildJob(**{**vars(found), "suspended": queued})
        self.tail = Tail()

    def _stop(self, found: ChildJob) -> None:
        """As with foreground deletion: pods are told to stop, and the Job stays until they are gone."""
        self.stopped.append(found.name)
        mine = [each for each in self.pods.values() if each.job == found.name and not each.over]
        if not mine:
            self.end(found.name)
            return
        self.jobs[found.name] = ChildJob(
            **{**vars(found), "deleting": True, "resource_version": found.resource_version + 1}
        )
        for each in mine:
            self._put(each, deletion=self.now + timedelta(seconds=30))

    # -- the rest of the cluster ---------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def run(self, name: str, *, step: int | None = None, resumed: Any = None) -> None:
        """The Job's pod runs, and has done so many steps."""
        self.pods[name] = pod(
            {"running": {}},
            metadata={
                "name": f"{name}-0", "uid": f"{name}-0", "creationTimestamp": text(self.now),
                "ownerReferences": [{"kind": "Job", "name": name, "uid": name, "controller": True}],
            },
        )  # fmt: skip
        if step is not None:
            self.tail = Tail(progress=progress(step), resumed=resumed)

    def fail(self, name: str, reason: Reason, message: str = "m") -> None:
        """The Job's pod ends with this report, and Kubernetes calls the Job failed."""
        state = failed_report(reason, message)
        self.run(name)
        old = self.pods[name]
        self.pods[name] = pod(
            state,
            metadata={
                "name": old.name, "uid": old.uid, "resourceVersion": "40",
                "ownerReferences": [{"kind": "Job", "name": name, "uid": name, "controller": True}],
            },
        )  # fmt: skip
        condition = ("Failed", "BackoffLimitExceeded")
        ended = child(condition, name=name, uid=name, resourceVersion="60")
        outcome = ended.failed
        assert outcome is not None
        when = type(outcome)(outcome.reason, outcome.message, self.now)
        self.jobs[name] = ChildJob(**{**vars(ended), "failed": when})

    def end(self, name: str) -> None:
        """The pod of a Job that was stopped has ended; both are gone."""
        self.pods.pop(name, None)
        self.jobs.pop(name, None)

    def _put(self, found: Pod, **changes: object) -> None:
        version = found.resource_version + 1
        self.pods[found.job] = Pod(**{**vars(found), **changes, "resource_version": version})

    # -- what a user sees ----------------------------------------------------------------------------

    def condition(self, kind: str) -> tuple[str, str]:
        for each in self.status.conditions or ():
            if each.type == kind:
                return each.status, each.reason
        return "", ""

    def message(self, kind: str) -> str:
        return next((c.message for c in self.status.conditions or () if c.type == kind), "")

    @property
    def attempts(self) -> list[tuple[int, str, str | None]]:
        return [(each.number, each.state, each.reason) for each in self.status.attempts or ()]


def progress(step: int, seconds: float = 1, total: int = 100) -> Progress:
    """Training at this step, when a step takes so long."""
    left = round(seconds * (total - step))
    return Progress(phase="Training", step=step, total_steps=total, eta_seconds=left)


def text(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
