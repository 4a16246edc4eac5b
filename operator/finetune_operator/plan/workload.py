"""The Indexed Job of an attempt. Pure: the golden files in `tests/unit/plan` show what it makes.

Called by the reconciler to create an attempt. Pods are restricted in the sense of the Pod Security
Standards, get no API token, and carry nothing that a user could not have named in the spec.
"""

from typing import Any

from finetune_api.meta import AUTO
from finetune_api.run_file import MOUNT_PATHS, RUN_FILE_ANNOTATION, RUN_FILE_PATH, TERMINATION_LOG
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_operator.observe.facts import JobFacts
from finetune_operator.observe.pods import TRAINER
from finetune_operator.plan import names, volumes
from finetune_operator.plan.installation import Installation, with_defaults
from finetune_operator.plan.run_file import run_file

USER = 65532
GRACE_SECONDS = 30
Manifest = dict[str, Any]


def workload(
    job: JobFacts, spec: FineTuneJobSpec, installation: Installation, attempt: int
) -> Manifest:
    """The attempt's Job: one pod a node, none of them tried again by Kubernetes."""
    nodes = spec.resources.nodes
    deadline = spec.run_policy.active_deadline_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.job_name(job.key.name, attempt),
            "namespace": job.key.namespace,
            "labels": names.labels(job.key.name, attempt),
            "ownerReferences": [names.owner_reference(job)],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            **({"activeDeadlineSeconds": deadline} if deadline else {}),
            "template": _template(job, with_defaults(spec, installation), installation, attempt),
        },
    }


def _template(
    job: JobFacts, spec: FineTuneJobSpec, installation: Installation, attempt: int
) -> Manifest:
    text = run_file(job, spec, attempt, installation.progress_interval_seconds)
    return {
        "metadata": {
            "labels": names.labels(job.key.name, attempt),
            "annotations": {RUN_FILE_ANNOTATION: text},
        },
        "spec": _pod(job, spec, installation),
    }


def _pod(job: JobFacts, spec: FineTuneJobSpec, installation: Installation) -> Manifest:
    mounted = volumes.mounted(spec)
    grace = spec.run_policy.termination_grace_period_seconds
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS if grace == AUTO else grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # Volumes of terabytes are not walked through at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_placement(job, spec),
        **_pull_secrets(installation),
        "containers": [_container(spec, installation, mounted)],
        "volumes": [each.volume for each in mounted],
    }


def _placement(job: JobFacts, spec: FineTuneJobSpec) -> Manifest:
    given = spec.scheduling.to_dict()
    passed_on = (
        "nodeSelector",
        "tolerations",
        "affinity",
        "priorityClassName",
        "runtimeClassName",
    )
    placement = {field: given[field] for field in passed_on if field in given}
    if spec.resources.nodes > 1:
        placement["subdomain"] = names.service_name(job.key.name)
    return placement


def _pull_secrets(installation: Installation) -> Manifest:
    secrets = [{"name": name} for name in installation.image_pull_secrets]
    return {"imagePullSecrets": secrets} if secrets else {}


def _container(
    spec: FineTuneJobSpec, installation: Installation, mounted: list[volumes.Mounted]
) -> Manifest:
    return {
        "name": TRAINER,
        "image": installation.image,
        "imagePullPolicy": installation.image_pull_policy,
        "args": ["run", RUN_FILE_PATH],
        "env": volumes.environment(mounted),
        "resources": _resources(spec),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": MOUNT_PATHS[TERMINATION_LOG],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [each.mount for each in mounted],
    }


def _resources(spec: FineTuneJobSpec) -> Manifest:
    wanted = spec.resources
    gpus = {wanted.gpu_resource: str(wanted.gpus_per_node)} if wanted.gpus_per_node else {}
    memory = {"memory": wanted.memory} if wanted.memory else {}
    cpu = {"cpu": wanted.cpu} if wanted.cpu else {}
    found = {"requests": {**cpu, **memory, **gpus}, "limits": {**memory, **gpus}}
    return {name: amounts for name, amounts in found.items() if amounts}
