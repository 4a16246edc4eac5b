"""Reads FineTuneJobs and child Jobs from API objects.

Called for every watch event and every read; `None` means that an object is not ours to look at.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from finetune_api.v1alpha1.job import NAMES
from finetune_api.v1alpha1.reasons import ConditionType
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.observe.facts import ChildJob, JobFacts, Key, Outcome, Owner, Role
from finetune_operator.observe.fields import Body, block, items, number, text, time

JOB_LABEL = "finetune.dev/job"
JOB_SCHEME = "job://"


def job_facts(body: Body) -> JobFacts:
    """A FineTuneJob."""
    metadata, spec = block(body, "metadata"), block(body, "spec")
    facts = JobFacts(
        key=Key(text(metadata, "namespace"), text(metadata, "name")),
        uid=text(metadata, "uid"),
        generation=number(metadata.get("generation")),
        resource_version=number(metadata.get("resourceVersion")),
        spec=spec,
        status=read_status(block(body, "status")),
        deleting="deletionTimestamp" in metadata,
        reads=jobs_read(spec),
        output_uri=text(block(spec, "output"), "uri"),
        ttl_seconds=_count(block(spec, "runPolicy").get("ttlSecondsAfterFinished")),
    )
    return replace(facts, spec={}, reads=()) if facts.ended else facts


def _count(value: object) -> int | None:
    found = number(value, default=-1)
    return found if found >= 0 else None


def jobs_read(spec: Body) -> tuple[str, ...]:
    """Names of the jobs whose output a spec names as a source, each once.

    The same as `FineTuneJobSpec.source_jobs`, for the price of a few look-ups in a raw spec.
    """
    data, method = block(spec, "data"), block(spec, "method")
    evaluation = items(block(data, "evaluation"), "sources")
    holders = [block(spec, "model"), *items(data, "train"), *evaluation]
    uris = [text(holder, "source") for holder in holders]
    for settings in (block(method, name) for name in method):
        uris += [text(settings, "rewardModel"), text(settings, "teacher")]
        uris.append(text(block(settings, "reference"), "source"))
    names = (uri.removeprefix(JOB_SCHEME) for uri in uris if uri.startswith(JOB_SCHEME))
    return tuple(dict.fromkeys(names))


def read_status(body: Body) -> FineTuneJobStatus:
    """A status; fields that this version cannot read are left out one by one."""
    try:
        status = FineTuneJobStatus.model_validate(body)
    except ValidationError:
        status = FineTuneJobStatus.model_validate(_readable(body))
    known = [c for c in status.conditions or () if c.type in set(ConditionType)]
    return status.model_copy(update={"conditions": known or None})


def _readable(body: Body) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in body.items():
        items_of = value if isinstance(value, list) else None
        good = value if items_of is None else [i for i in items_of if _valid({name: [i]})]
        if _valid({name: good}):
            kept[name] = good
    return kept


def _valid(fragment: Mapping[str, Any]) -> bool:
    try:
        FineTuneJobStatus.model_validate(fragment)
    except ValidationError:
        return False
    return True


def child_job(body: Body) -> ChildJob | None:
    """A batch Job that carries our label; None if the label is missing."""
    metadata = block(body, "metadata")
    labels = block(metadata, "labels")
    name = text(labels, JOB_LABEL)
    return labelled_child(body, Key(text(metadata, "namespace"), name)) if name else None


def labelled_child(body: Body, key: Key) -> ChildJob:
    """A batch Job as the child of this FineTuneJob, whether it is ours or not."""
    metadata = block(body, "metadata")
    name = text(metadata, "name")
    return ChildJob(
        key=key,
        name=name,
        uid=text(metadata, "uid"),
        resource_version=number(metadata.get("resourceVersion")),
        owner=controlling_owner(metadata),
        # By its name, which cannot change, while whoever may edit Jobs may edit labels.
        attempt=number(name.removesuffix(Role.PREFLIGHT.suffix).rpartition("-")[2], default=1),
        created=time(metadata.get("creationTimestamp")),
        deleting="deletionTimestamp" in metadata,
        complete=_outcome(body, "Complete"),
        failed=_outcome(body, "Failed"),
        suspended=block(body, "spec").get("suspend") is True,
    )


def controlling_owner(metadata: Body) -> Owner | None:
    """The owner reference with `controller: true`."""
    for reference in items(metadata, "ownerReferences"):
        if reference.get("controller") is True:
            return Owner(*(text(reference, field) for field in ("kind", "name", "uid")))
    return None


def is_predecessor(owner: Owner | None, job: JobFacts) -> bool:
    """Whether the owner is a deleted FineTuneJob of the same name, whose children still go."""
    return (
        owner is not None
        and owner.uid != job.uid
        and ((owner.kind, owner.name) == (NAMES["kind"], job.key.name))
    )


def _outcome(body: Body, kind: str) -> Outcome | None:
    for condition in items(block(body, "status"), "conditions"):
        if condition.get("type") == kind and condition.get("status") == "True":
            when = time(condition.get("lastTransitionTime"))
            return Outcome(text(condition, "reason"), text(condition, "message"), when)
    return None
