"""The trainer's half of the compatibility table: rows that need to know the family of the model.

Called by `recipes.course` once the configuration is read, in the preflight and in the run itself.
The other rows are rules of the spec.
"""

from finetune_api.v1alpha1.compatibility import cell_of, verdict
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError


def refuse(spec: FineTuneJobSpec, family: str) -> None:
    """See that this model can be trained as the spec says.

    Args:
        spec: What is wanted.
        family: The model's `model_type`.

    Raises:
        TrainerError: UnsupportedCombination.
    """
    if refusal := verdict(cell_of(spec, family)):
        what = f"{spec.method.type} of {spec.model.task} with {spec.tuning.type} on {family}"
        raise TrainerError(Reason.UNSUPPORTED_COMBINATION, f"{what}: {refusal}")
