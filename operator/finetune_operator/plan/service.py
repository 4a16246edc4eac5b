"""The headless Service by which the pods of a job with several nodes find each other."""

from typing import Any

from finetune_operator.observe.facts import JobFacts, Role
from finetune_operator.plan import names


def service(job: JobFacts, attempt: int) -> dict[str, Any]:
    """The Service; its names resolve before pods are ready, for rendezvous precedes readiness."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": names.service_name(job.key.name),
            "namespace": job.key.namespace,
            "labels": names.labels(job.key.name, attempt),
            "ownerReferences": [names.owner_reference(job)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.SELECTOR: job.key.name, names.ROLE_LABEL: Role.TRAINER.value},
        },
    }
