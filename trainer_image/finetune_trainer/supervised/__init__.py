"""Supervised tasks beside text generation: their trainer, batches, figures. Used by their recipes."""
