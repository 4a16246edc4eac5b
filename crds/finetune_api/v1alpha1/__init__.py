"""Version v1alpha1 of the FineTuneJob: one module a block of the spec, one for the status."""

from finetune_api.v1alpha1.job import FineTuneJob, FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import FineTuneJobStatus

__all__ = ["FineTuneJob", "FineTuneJobSpec", "FineTuneJobStatus", "Reason"]
