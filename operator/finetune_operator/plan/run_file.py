"""The run file of an attempt, as the text of the pod template's annotation."""

import json

from finetune_api.run_file import JobIdentity, RunFile
from finetune_operator.observe.facts import JobFacts
from finetune_operator.plan.decision import Creation
from finetune_operator.plan.grace import grace_seconds


def run_file(job: JobFacts, creation: Creation, progress_interval_seconds: float) -> str:
    """The run file as compact JSON; the spec has the installation's defaults filled in."""
    identity = JobIdentity(namespace=job.key.namespace, name=job.key.name, uid=job.uid)
    content = RunFile(
        job=identity,
        attempt=creation.attempt,
        spec=creation.spec,
        sources=dict(creation.sources),
        micro_batch_divisor=creation.micro_batch_divisor,
        grace_seconds=grace_seconds(creation),
        progress_interval_seconds=progress_interval_seconds,
    )
    return json.dumps(content.to_dict(), separators=(",", ":"), ensure_ascii=False)
