"""The run file of an attempt, as the text of the pod template's annotation."""

import json

from finetune_api.run_file import JobIdentity, RunFile
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_operator.observe.facts import JobFacts


def run_file(
    job: JobFacts, spec: FineTuneJobSpec, attempt: int, progress_interval_seconds: float
) -> str:
    """The run file as compact JSON; `spec` has the installation's defaults filled in."""
    identity = JobIdentity(namespace=job.key.namespace, name=job.key.name, uid=job.uid)
    content = RunFile(
        job=identity,
        attempt=attempt,
        spec=spec,
        progress_interval_seconds=progress_interval_seconds,
    )
    return json.dumps(content.to_dict(), separators=(",", ":"), ensure_ascii=False)
