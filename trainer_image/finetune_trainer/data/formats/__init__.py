"""From rows to examples: recognise the format by the columns, and check every field.

Used by `data.load`. One run has one format; rows that mix formats are refused, because one of them is
usually a mistake. `formats.table` says which columns make a format, the modules beside it check rows.
"""

from finetune_trainer.data.formats.recognise import recognise
from finetune_trainer.data.formats.table import FORMATS, Format, to_examples

__all__ = ["FORMATS", "Format", "recognise", "to_examples"]
