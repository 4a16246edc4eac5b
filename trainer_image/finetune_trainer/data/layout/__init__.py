"""From the listing of a folder to its data files: which split, which subset, which files.

A pure function over names and the text of the data set's card, for the hub and for every other place
alike, by the hub's own conventions. Nothing is read and nothing is run here.
"""

from finetune_trainer.data.layout.choose import Layout, Wish, choose

__all__ = ["Layout", "Wish", "choose"]
