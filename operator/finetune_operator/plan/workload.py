"""The Jobs of an attempt. Pure: the golden files in `tests/unit/plan` show what it makes.

Called by `apply` to create one. Pods are restricted in the sense of the Pod Security Standards, get
no API token, and carry nothing that a user could not have named in the spec. The trainers are an
Indexed Job with one pod a node; the preflight is a Job of one pod that asks for no GPU.
"""

import hashlib
from dataclasses import replace
from typing import Any

from finetune_api.run_file import (
    MOUNT_PATHS,
    RENDEZVOUS,
    RUN_FILE_ANNOTATION,
    RUN_FILE_PATH,
    TERMINATION_LOG,
)
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_operator.observe.facts import JobFacts, Role
from finetune_operator.observe.pods import TRAINER
from finetune_operator.plan import names, preflight, volumes
from finetune_operator.plan.decision import Creation
from finetune_operator.plan.grace import grace_seconds
from finetune_operator.plan.installation import Installation, with_defaults
from finetune_operator.plan.queues import queue_labels
from finetune_operator.plan.run_file import run_file

USER = 65532
FIRST_PORT, PORTS = 20_000, 10_000
COMMANDS = {Role.TRAINER: "run", Role.PREFLIGHT: "preflight"}
Manifest = dict[str, Any]


def workload(job: JobFacts, creation: Creation, installation: Installation) -> Manifest:
    """The Job to create; none of its pods is tried again by Kubernetes."""
    creation = replace(creation, spec=with_defaults(creation.spec, installation))
    deadline = creation.deadline_seconds or creation.spec.run_policy.active_deadline_seconds
    queue = queue_labels(creation.spec, creation.role)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.job_name(job.key.name, creation.attempt, creation.role),
            "namespace": job.key.namespace,
            "labels": names.labels(job.key.name, creation.attempt, creation.role) | queue,
            "ownerReferences": [names.owner_reference(job)],
        },
        "spec": {
            **_pods(creation),
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            **({"activeDeadlineSeconds": deadline} if deadline else {}),
            **({"suspend": True} if queue else {}),
            "template": _template(job, creation, installation),
        },
    }


def _pods(creation: Creation) -> Manifest:
    # Not Indexed: the host names of its pods would be longer than a name may be.
    if creation.role is Role.PREFLIGHT:
        return {"completions": 1, "parallelism": 1}
    nodes = creation.spec.resources.nodes
    return {"completionMode": "Indexed", "completions": nodes, "parallelism": nodes}


def _template(job: JobFacts, creation: Creation, installation: Installation) -> Manifest:
    text = run_file(job, creation, installation.progress_interval_seconds)
    return {
        "metadata": {
            "labels": names.labels(job.key.name, creation.attempt, creation.role),
            "annotations": {RUN_FILE_ANNOTATION: text},
        },
        "spec": _pod(job, creation, installation),
    }


def _pod(job: JobFacts, creation: Creation, installation: Installation) -> Manifest:
    mounted = volumes.mounted(creation)
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(creation),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # Volumes of terabytes are not walked through at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_placement(job, creation),
        **_pull_secrets(installation),
        "containers": [_container(job, creation, installation, mounted)],
        "volumes": [each.volume for each in mounted],
    }


def _placement(job: JobFacts, creation: Creation) -> Manifest:
    if creation.role is Role.PREFLIGHT:
        return preflight.placement(creation.spec)
    given = creation.spec.scheduling.to_dict()
    passed_on = (
        "nodeSelector",
        "tolerations",
        "affinity",
        "priorityClassName",
        "runtimeClassName",
    )
    placement = {field: given[field] for field in passed_on if field in given}
    if creation.spec.resources.nodes > 1:
        placement["subdomain"] = names.service_name(job.key.name)
    return placement


def _pull_secrets(installation: Installation) -> Manifest:
    secrets = [{"name": name} for name in installation.image_pull_secrets]
    return {"imagePullSecrets": secrets} if secrets else {}


def _rendezvous(job: JobFacts, creation: Creation) -> dict[str, str]:
    """Where the pods of several nodes meet: at the first of them, by its name under the Service."""
    if creation.spec.resources.nodes == 1:
        return {}
    pod = names.job_name(job.key.name, creation.attempt) + "-0"
    address = f"{pod}.{names.service_name(job.key.name)}:{rendezvous_port(job, creation)}"
    return {RENDEZVOUS: address}


def rendezvous_port(job: JobFacts, creation: Creation) -> int:
    """One for each attempt, so that jobs do not meet each other where pods share an address.

    Below the ports of node ports and of outgoing connections, which begin at 30000 and 32768.
    """
    digest = hashlib.sha256(f"{job.uid}-{creation.attempt}".encode()).digest()
    return FIRST_PORT + int.from_bytes(digest[:4], "big") % PORTS


def _container(
    job: JobFacts, creation: Creation, installation: Installation, mounted: list[volumes.Mounted]
) -> Manifest:
    preflight_only = creation.role is Role.PREFLIGHT
    extra = preflight.NO_GPU if preflight_only else _rendezvous(job, creation)
    return {
        "name": TRAINER,
        "image": installation.image,
        "imagePullPolicy": installation.image_pull_policy,
        "args": [COMMANDS[creation.role], RUN_FILE_PATH],
        "env": volumes.environment(mounted, installation.hub_endpoint, extra),
        "resources": _resources(creation),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": MOUNT_PATHS[TERMINATION_LOG],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [each.mount for each in mounted],
    }


def _resources(creation: Creation) -> Manifest:
    if creation.role is Role.PREFLIGHT:
        return preflight.resources(creation.spec)
    return _trainer_resources(creation.spec)


def _trainer_resources(spec: FineTuneJobSpec) -> Manifest:
    wanted = spec.resources
    gpus = {wanted.gpu_resource: str(wanted.gpus_per_node)} if wanted.gpus_per_node else {}
    memory = {"memory": wanted.memory} if wanted.memory else {}
    cpu = {"cpu": wanted.cpu} if wanted.cpu else {}
    found = {"requests": {**cpu, **memory, **gpus}, "limits": {**memory, **gpus}}
    return {name: amounts for name, amounts in found.items() if amounts}
