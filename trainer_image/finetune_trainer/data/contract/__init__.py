"""The data contract: what the prepared rows are like, whether that is good enough, and how they look.

Called by `recipes.course` for every method, before anything is loaded, and by `preflight`. `measure`
counts, `judge` compares with `data.limits`, `samples` decodes, `publish` writes it down. All of it is
pure but for `publish`; rows of every kind are looked at through `view`.
"""

from finetune_trainer.data.contract.draw_up import Contract, Subject, draw_up

__all__ = ["Contract", "Subject", "draw_up"]
