"""`spec.scheduling` and `spec.runPolicy`: where pods may run, and what happens around the run.

Affinity terms are typed here rather than taken whole from the pod API, since those name namespaces
and a job must not reach beyond its own.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.meta import (
    AUTO,
    ApiModel,
    AutoOrCount,
    DnsLabel,
    DnsName,
    Kubernetes,
    LabelKey,
    LabelValue,
    Rule,
    auto_or_between,
    unchanged,
)

Seconds = Annotated[int, Field(ge=1, le=31_536_000)]
Retries = Annotated[int, Field(ge=0, le=100)]
LabelValues = Annotated[list[LabelValue], Field(max_length=32), Kubernetes("atomic")]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]
Weight = Annotated[int, Field(ge=1, le=100)]


class Toleration(ApiModel):
    """A taint that the trainer pods tolerate."""

    key: LabelKey | None = None
    """Key of the taint; without it, every taint (with `operator: Exists`)."""

    operator: Literal["Exists", "Equal"] = "Equal"
    """How the value is compared."""

    value: LabelValue | None = None
    """Value of the taint."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; without it, all effects."""

    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """How long a `NoExecute` taint is tolerated."""


class LabelExpression(ApiModel):
    """One requirement on labels."""

    key: LabelKey
    """Label key."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How the values are compared; `Gt` and `Lt` for nodes only."""

    values: LabelValues | None = None
    """Values of the comparison."""


Expressions = Annotated[list[LabelExpression], Field(max_length=16), Kubernetes("atomic")]


class NodeSelectorTerm(ApiModel):
    """Requirements on a node that must all hold."""

    match_expressions: Expressions
    """Requirements on the node's labels."""


class NodeSelector(ApiModel):
    """Terms of which one must hold."""

    node_selector_terms: Annotated[
        list[NodeSelectorTerm], Field(min_length=1, max_length=8), Kubernetes("atomic")
    ]
    """The terms."""


class PreferredNode(ApiModel):
    """A weighted preference for nodes."""

    weight: Weight
    """Weight of the preference."""

    preference: NodeSelectorTerm
    """The preferred nodes."""


class NodeAffinity(ApiModel):
    """Which nodes are needed or preferred."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Nodes that are allowed."""

    preferred_during_scheduling_ignored_during_execution: (
        Annotated[list[PreferredNode], Field(max_length=8), Kubernetes("atomic")] | None
    ) = None
    """Nodes that are preferred."""


class LabelSelector(ApiModel):
    """Pods by their labels."""

    match_labels: Labels | None = None
    """Labels that must be equal."""

    match_expressions: Expressions | None = None
    """Requirements on labels."""


class PodAffinityTerm(ApiModel):
    """Pods of this namespace, near or far by a topology."""

    label_selector: LabelSelector
    """The pods."""

    topology_key: LabelKey
    """Node label whose value says what is near."""


class WeightedPodAffinityTerm(ApiModel):
    """A weighted preference for pods."""

    weight: Weight
    """Weight of the preference."""

    pod_affinity_term: PodAffinityTerm
    """The pods."""


PodTerms = Annotated[list[PodAffinityTerm], Field(max_length=8), Kubernetes("atomic")]
WeightedPodTerms = Annotated[
    list[WeightedPodAffinityTerm], Field(max_length=8), Kubernetes("atomic")
]


class PodAffinity(ApiModel):
    """Which pods are wanted near, or far."""

    required_during_scheduling_ignored_during_execution: PodTerms | None = None
    """Terms that must hold."""

    preferred_during_scheduling_ignored_during_execution: WeightedPodTerms | None = None
    """Terms that are preferred."""


class Affinity(ApiModel):
    """Affinity of the trainer pods, in the pod API's own words."""

    node_affinity: NodeAffinity | None = None
    """Nodes."""

    pod_affinity: PodAffinity | None = None
    """Pods to be near to."""

    pod_anti_affinity: PodAffinity | None = None
    """Pods to be far from."""


class PreflightScheduling(ApiModel):
    """Where the pod may run that checks the input before GPUs are asked for."""

    node_selector: Labels | None = None
    """Labels that the node must have. Without it, any node of the job's own `kubernetes.io/os` and
    `kubernetes.io/arch` will do."""

    tolerations: Annotated[list[Toleration], Field(max_length=32), Kubernetes("atomic")] | None = (
        None
    )
    """Taints that are tolerated; without it, those that the trainer pods tolerate."""


class Scheduling(ApiModel):
    """Where the trainer pods may run."""

    rules: ClassVar[tuple[Rule, ...]] = unchanged(
        "queueName", "nodeSelector", "tolerations", "affinity", "runtimeClassName", "preflight"
    )

    queue_name: DnsLabel | None = None
    """Kueue LocalQueue that admits the trainers; their Job is made suspended and waits for it."""

    priority_class_name: DnsName | None = None
    """PriorityClass of the pods. May change until the pods exist."""

    node_selector: Labels | None = None
    """Labels that the node must have."""

    tolerations: Annotated[list[Toleration], Field(max_length=32), Kubernetes("atomic")] | None = (
        None
    )
    """Taints that are tolerated."""

    affinity: Affinity | None = None
    """Affinity to nodes and pods."""

    runtime_class_name: DnsName | None = None
    """RuntimeClass of the pods, where GPUs need one."""

    preflight: PreflightScheduling | None = None
    """Placement of the preflight pod, which needs no GPU and therefore not the node selector, the
    affinity and the RuntimeClass of the trainer pods."""


class RetryBudget(ApiModel):
    """How often a job may be tried again, by the kind of failure."""

    infrastructure: Retries = 3
    """After a failed store, a failed link, a killed process or a hang. Preemption, eviction and a lost
    node are free."""

    out_of_memory: Annotated[int, Field(ge=0, le=1)] = 1
    """After GPU memory ran out: once, with half the micro-batch."""


class RunPolicy(ApiModel):
    """What happens around the run."""

    rules: ClassVar[tuple[Rule, ...]] = (
        auto_or_between("termination_grace_period_seconds", 0, 86400),
        *unchanged(
            "retries",
            "activeDeadlineSeconds",
            "startupDeadlineSeconds",
            "terminationGracePeriodSeconds",
        ),
    )

    retries: RetryBudget | None = None
    """How often the job is tried again. Bad input is never tried again."""

    active_deadline_seconds: Seconds | None = None
    """Longest time that the job may be active, all attempts and the pauses between them together. As
    with a Kubernetes Job, time in suspension and in a queue does not count, and the clock begins anew
    afterwards."""

    startup_deadline_seconds: Seconds | None = None
    """Longest time from the creation of an attempt to its first training step."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Delete the job this long after it ended; the output stays. May change at any time."""

    termination_grace_period_seconds: AutoOrCount = AUTO
    """Time that a pod gets to save after it was told to stop. `Auto`: twice the time that the last
    checkpoint took, or that one of its size is expected to take, and a step; at least 30 seconds, at
    most 600."""
