"""How the preflight pod differs from a trainer pod: one pod, no GPU, any node, little of anything.

Called by `plan.workload`. It reads the same run file, with the same credentials and volumes.
"""

from typing import Any

from finetune_api.quantities import smaller
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.scheduling import PreflightScheduling

CPU = "1"
MEMORY = "2Gi"
# What an image is built for; all other labels of a trainer's node are taken to mean its GPUs.
PLATFORM_LABELS = ("kubernetes.io/os", "kubernetes.io/arch")
# A node whose container runtime shows GPUs to everybody must not show them to this pod.
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}


def resources(spec: FineTuneJobSpec) -> dict[str, Any]:
    """Requests of at most one CPU and 2Gi; a limit only where the job has one."""
    wanted = spec.resources
    cpu = smaller(wanted.cpu, CPU) if wanted.cpu else CPU
    memory = smaller(wanted.memory, MEMORY) if wanted.memory else MEMORY
    limits = {"limits": {"memory": wanted.memory}} if wanted.memory else {}
    return {"requests": {"cpu": cpu, "memory": memory}, **limits}


def placement(spec: FineTuneJobSpec) -> dict[str, Any]:
    """Node selector, tolerations and priority: those of `scheduling.preflight`, or careful ones."""
    given, own = spec.scheduling, spec.scheduling.preflight or PreflightScheduling()
    selector = _platform(given.node_selector) if own.node_selector is None else own.node_selector
    tolerations = given.tolerations if own.tolerations is None else own.tolerations
    found = {
        "nodeSelector": selector,
        "tolerations": [each.to_dict() for each in tolerations or ()],
        "priorityClassName": given.priority_class_name,
    }
    return {name: value for name, value in found.items() if value}


def _platform(selector: dict[str, str] | None) -> dict[str, str]:
    return {name: value for name, value in (selector or {}).items() if name in PLATFORM_LABELS}
