"""The meaning of every reason by its word, in the order of `docs/reference/reasons.md`.

One table a place to look for the cause. The words are those of `reasons.Reason`, which asks here.
"""

from finetune_api.v1alpha1.meanings.course import COURSE
from finetune_api.v1alpha1.meanings.meaning import FailureClass, Meaning
from finetune_api.v1alpha1.meanings.model_and_storage import MODEL_AND_STORAGE
from finetune_api.v1alpha1.meanings.spec_and_data import SPEC_AND_DATA
from finetune_api.v1alpha1.meanings.surroundings import SURROUNDINGS

__all__ = ["MEANINGS", "FailureClass", "Meaning"]

MEANINGS: dict[str, Meaning] = COURSE | SPEC_AND_DATA | MODEL_AND_STORAGE | SURROUNDINGS
