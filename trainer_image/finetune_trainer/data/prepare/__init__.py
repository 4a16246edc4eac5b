"""From examples to rows of token ids: one module and one function a kind of row.

Called by the recipes. Every function takes `Given` and returns `Prepared` rows of its kind, cut, counted
and split; what cannot be learned from is refused there.
"""

from finetune_trainer.data.given import Given
from finetune_trainer.data.load import Examples
from finetune_trainer.data.prepare.classes import class_rows
from finetune_trainer.data.prepare.judged import judged_rows
from finetune_trainer.data.prepare.masked import masked_rows
from finetune_trainer.data.prepare.preference import preference_rows
from finetune_trainer.data.prepare.prompts import prompt_rows
from finetune_trainer.data.prepare.sequences import sequence_rows
from finetune_trainer.data.prepare.tags import tag_rows
from finetune_trainer.data.prepare.tokens import token_rows

__all__ = [
    "Examples",
    "Given",
    "class_rows",
    "judged_rows",
    "masked_rows",
    "preference_rows",
    "prompt_rows",
    "sequence_rows",
    "tag_rows",
    "token_rows",
]
