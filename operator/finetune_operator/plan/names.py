"""Names and labels of the children of a FineTuneJob.

Deterministic, so that an operator that was killed between two writes finds what it made.
"""

from collections.abc import Mapping
from typing import Any

from finetune_api.meta import API_VERSION
from finetune_api.v1alpha1.job import NAMES
from finetune_operator.observe.facts import JobFacts, Role
from finetune_operator.observe.jobs import JOB_LABEL

FIELD_MANAGER = "finetune-operator"
SELECTOR = JOB_LABEL
ATTEMPT_LABEL = "finetune.dev/attempt"
ROLE_LABEL = "finetune.dev/role"


def job_name(name: str, attempt: int, role: Role = Role.TRAINER) -> str:
    """Name of an attempt's Job of this role: at most 63 characters for 99 attempts."""
    return f"{name}-{attempt}{role.suffix}"


def child_name(job: JobFacts, role: Role = Role.TRAINER) -> str:
    """Name of the present attempt's Job of this role, or of the one to come."""
    return job_name(job.name, job.attempt_number, role)


def is_older(job: JobFacts, child: str) -> bool:
    """Whether a Job of this name belongs to an attempt that has ended."""
    name, _, number = child.removesuffix(Role.PREFLIGHT.suffix).rpartition("-")
    return name == job.name and number.isdecimal() and int(number) < job.attempt_number


def service_name(name: str) -> str:
    """Name of the headless Service of a job with more than one node."""
    return name


def labels(name: str, attempt: int, role: Role = Role.TRAINER) -> dict[str, str]:
    """Labels of every child of this role."""
    return {
        "app.kubernetes.io/name": "finetune-trainer",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        JOB_LABEL: name,
        ATTEMPT_LABEL: str(attempt),
        ROLE_LABEL: role.value,
    }


def owner_reference(job: JobFacts) -> Mapping[str, Any]:
    """The reference by which the garbage collector removes children with their FineTuneJob."""
    return {
        "apiVersion": API_VERSION,
        "kind": NAMES["kind"],
        "name": job.key.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
